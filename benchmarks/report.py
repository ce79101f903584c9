"""The tables and the file of results."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from observing import Figures

Say = Callable[[str], None]
_FIELDS = ("cpu_us_per_record", "records_per_second", "peak_memory_mb")
_LIMITS = {"floor": 1.6, "kafka_streams": 0.3, "quix_streams": 0.1}
"""What the processor's CPU time per record may be at most, as a multiple of the other's."""


def line(figures: Figures) -> str:
    """One run in a few words."""
    return (
        f"{figures.cpu_us_per_record:.2f} us CPU/record, {figures.records_per_second:,.0f} records/s, "
        f"{figures.peak_memory_mb:.0f} MB ({figures.memory_growth_mb:+.0f} while measured)"
    )


def medians(results: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, float]]:
    """Median of each figure by subject, and the ratio of processor times to the floor's."""
    found = {
        name: {field: median(getattr(run, field) for run in runs) for field in _FIELDS}
        for name, runs in results.items()
    }
    floor = found.get("floor", {}).get("cpu_us_per_record")
    for figures in found.values():
        if floor:
            figures["ratio_to_floor"] = figures["cpu_us_per_record"] / floor
    return {name: {field: round(value, 3) for field, value in figures.items()} for name, figures in found.items()}


def settings(subjects: Mapping[str, Mapping[str, str]]) -> None:
    """Print what was chosen for each subject."""
    for title, chosen in subjects.items():
        print(title)
        for name, value in chosen.items():
            print(f"    {name:36}{value}")


def table(results: Mapping[str, Sequence[Figures]], titles: Mapping[str, str]) -> None:
    """Print medians with the range of the runs behind them, then the processor against the others."""
    print(f"{'':22}{'CPU us/record':>24}{'records/s':>30}{'to floor':>10}{'peak MB':>9}{'growth':>8}{'runs':>6}")
    found = medians(results)
    for name, figures in found.items():
        runs = results[name]
        cpu = sorted(run.cpu_us_per_record for run in runs)
        rate = sorted(run.records_per_second for run in runs)
        print(
            f"{titles[name]:22}"
            f"{figures['cpu_us_per_record']:8.2f} {f'({cpu[0]:.2f} to {cpu[-1]:.2f})':>15}"
            f"{figures['records_per_second']:10,.0f} {f'({rate[0]:,.0f} to {rate[-1]:,.0f})':>19}"
            f"{figures.get('ratio_to_floor', 0):10.2f}{figures['peak_memory_mb']:9.0f}"
            f"{median(run.memory_growth_mb for run in runs):+8.0f}{len(runs):6}"
        )
    for other, limit in _LIMITS.items():
        if other in found and "forebay" in found:
            ratio = found["forebay"]["cpu_us_per_record"] / found[other]["cpu_us_per_record"]
            verdict = "holds" if ratio <= limit else "DOES NOT HOLD"
            print(f"processor / {titles[other]}: {ratio:.2f}, wanted at most {limit}: {verdict}")


def spread(results: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, list[float]]]:
    """Lowest and highest of each figure by subject."""
    return {
        name: {field: [round(pick(getattr(run, field) for run in runs), 3) for pick in (min, max)] for field in _FIELDS}
        for name, runs in results.items()
    }


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def as_json(results: Mapping[str, Sequence[Figures]], more: Mapping[str, Any]) -> str:
    """The content of results/latest.json."""
    return json.dumps({**medians(results), "spread": spread(results), **more}, indent=2) + "\n"

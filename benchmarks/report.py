"""The table and the file of results."""

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from observing import Figures

Say = Callable[[str], None]
_FIELDS = ("cpu_us_per_record", "records_per_second", "peak_memory_mb")


def line(figures: Figures) -> str:
    """One run in a few words."""
    return (
        f"{figures.cpu_us_per_record:.2f} us CPU/record, {figures.records_per_second:,.0f} records/s, "
        f"{figures.peak_memory_mb:.0f} MB ({figures.memory_growth_mb:+.0f})"
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


def table(results: Mapping[str, Sequence[Figures]], titles: Mapping[str, str]) -> None:
    """Print medians with the range of the runs behind them."""
    print(f"{'':22}{'CPU us/record':>24}{'records/s':>30}{'to floor':>10}{'peak MB':>10}{'runs':>6}")
    for name, figures in medians(results).items():
        runs = results[name]
        cpu = sorted(run.cpu_us_per_record for run in runs)
        rate = sorted(run.records_per_second for run in runs)
        print(
            f"{titles[name]:22}"
            f"{figures['cpu_us_per_record']:8.2f} {f'({cpu[0]:.2f} to {cpu[-1]:.2f})':>15}"
            f"{figures['records_per_second']:10,.0f} {f'({rate[0]:,.0f} to {rate[-1]:,.0f})':>19}"
            f"{figures.get('ratio_to_floor', 0):10.2f}{figures['peak_memory_mb']:10.0f}{len(runs):6}"
        )


def as_json(results: Mapping[str, Sequence[Figures]]) -> str:
    """The content of results/latest.json."""
    return json.dumps(medians(results), indent=2) + "\n"

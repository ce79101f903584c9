"""What came out, as a table for people and as files for programs."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from forebay.errors import ForebayError
from forebay.planning.scaling import stored
from forebay_cli.simulate.comparison import FIGURES, Result
from forebay_cli.simulate.policies import PEERS
from forebay_cli.simulate.world import Setting

TITLES = ("seconds over", "p99 behind", "replica-hours", "rescales", "moves")
OURS = "forebay"


class UnwritableError(ForebayError):
    """A result cannot be written where the user wants it."""


def table(results: Sequence[Result], setting: Setting) -> Iterator[str]:
    """A block of lines for each trace, and the sums where there are several."""
    yield (
        f"{setting.partitions} partitions, {setting.capacity:g} records/s per replica, {setting.freshness_s:g} s fresh, "
        f"medians over {setting.seeds} runs"
    )
    traces = list(dict.fromkeys(result.trace for result in results))
    for trace in traces:
        here = [result for result in results if result.trace == trace]
        yield ""
        yield from _block(trace, [(result.policy, result.figures) for result in here])
        for peer in better_peers(here):
            yield f"  {peer} is better here: no more seconds over, no more replica-hours, and less of one"
    if len(traces) > 1:
        yield ""
        yield from _block(f"sum of {len(traces)} traces", list(sums(results).items()))


def better_peers(here: Sequence[Result]) -> tuple[str, ...]:
    """The peers that are at least as good as Forebay in seconds and replica-hours of one trace, and better in one of them."""
    ours = next((result.figures for result in here if result.policy == OURS), None)
    if ours is None:
        return ()
    keys = ("seconds_over", "replica_hours")
    return tuple(
        result.policy
        for result in here
        if result.policy in PEERS
        and all(result.figures[key] <= ours[key] for key in keys)
        and any(result.figures[key] < ours[key] for key in keys)
    )


def sums(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """By policy, each figure added up over the traces; of the freshness, the worst."""
    total: dict[str, dict[str, float]] = {}
    for result in results:
        of = total.setdefault(result.policy, dict.fromkeys(FIGURES, 0.0))
        for figure, value in result.figures.items():
            of[figure] = max(of[figure], value) if figure == "p99_freshness_s" else of[figure] + value
    return total


def write_report(file: Path, results: Sequence[Result]) -> None:
    """`{trace: {policy: {figure: median}}}` as JSON."""
    report: dict[str, dict[str, dict[str, float]]] = {}
    for result in results:
        report.setdefault(result.trace, {})[result.policy] = result.figures
    _write(file, json.dumps(report, indent=2).encode() + b"\n")


def write_decisions(folder: Path, results: Sequence[Result]) -> None:
    """A file of JSON lines for each trace: `forebay.planning.scaling.read` takes them back."""
    for result in results:
        if result.policy == OURS:
            _write(folder / f"{file_name(result.trace)}.jsonl", stored(result.log))


def file_name(trace: str) -> str:
    """A trace's name as the name of a file."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in trace).strip("-.") or "trace"


def _write(file: Path, content: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    except OSError as error:
        raise UnwritableError(f"cannot write {file}: {error.strerror}") from error


def _block(title: str, rows: Sequence[tuple[str, dict[str, float]]]) -> Iterator[str]:
    yield f"{title:<28}" + "".join(f"{name:>15}" for name in TITLES)
    for policy, figures in rows:
        cells = (figures[figure] for figure in FIGURES)
        yield f"  {policy:<26}" + "".join(
            f"{value:>15,.{digits}f}" for value, digits in zip(cells, (1, 1, 2, 0, 0), strict=True)
        )

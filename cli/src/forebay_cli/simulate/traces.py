"""Traces: how many records arrive per second, and how they are spread over the partitions.

A CSV file: `seconds,records_per_second[,weight of partition 0,weight of partition 1,...]`. A row holds until the next one;
the last holds as long as the one before it did. A header line is allowed. Without weights the partitions get the same, give
or take what the world adds.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from forebay.errors import ForebayError

MAX_ROWS = 1_000_000
LONGEST_S = 8 * 86_400


class TraceError(ForebayError):
    """A trace that cannot be read, with file and line."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals over time."""

    name: str
    times: tuple[float, ...]
    """Seconds since the beginning, ascending from 0."""
    rates: tuple[float, ...]
    """Records per second, from the time of the same index on."""
    weights: tuple[tuple[float, ...], ...] | None
    """By row: the partitions' parts, in any unit."""
    seconds: float
    """How long it takes."""


def load(file: Path) -> Trace:
    """The trace in a CSV file; its name is the file's without the ending."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(_rows(file, lines))
    except OSError as error:
        raise TraceError(f"{file}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{file} is no CSV file: {error}") from error
    if len(rows) < 2:  # noqa: PLR2004 - the last row's length is that of the one before
        raise TraceError(f"{file} has {len(rows)} rows of figures; a trace has at least two")
    start = rows[0][0]
    times = tuple(row[0] - start for row in rows)
    weights = tuple(tuple(row[2:]) for row in rows)
    seconds = 2 * times[-1] - times[-2]
    if seconds > LONGEST_S:
        raise TraceError(f"{file} takes {seconds / 86_400:.1f} days; the most is {LONGEST_S // 86_400}")
    return Trace(file.stem, times, tuple(row[1] for row in rows), weights if weights[0] else None, seconds)


def check_partitions(trace: Trace, partitions: int) -> None:
    """Raises TraceError where the trace's weights are for another number of partitions."""
    if trace.weights is not None and len(trace.weights[0]) != partitions:
        raise TraceError(
            f"trace {trace.name} has weights for {len(trace.weights[0])} partitions: simulate it with --partitions "
            f"{len(trace.weights[0])}"
        )


def _rows(file: Path, text: Iterable[str]) -> list[list[float]]:
    lines = csv.reader(text)
    rows: list[list[float]] = []
    for line in lines:
        place = f"{file}:{lines.line_num}"
        if not line or line[0].lstrip().startswith("#"):
            continue
        try:
            row = [float(cell) for cell in line]
        except ValueError:
            if rows or any(_is_number(cell) for cell in line):
                raise TraceError(f"{place}: {','.join(line)[:80]!r} holds something that is no number") from None
            continue  # a header
        _check(place, row, rows)
        rows.append(row)
        if len(rows) > MAX_ROWS:
            raise TraceError(f"{file} has more than {MAX_ROWS} rows")
    return rows


def _check(place: str, row: list[float], rows: list[list[float]]) -> None:
    if len(row) < 2:  # noqa: PLR2004 - the two columns that every trace has
        raise TraceError(f"{place}: a row is seconds,records_per_second[,weights ...]")
    if not all(math.isfinite(cell) for cell in row) or min(row[1:]) < 0:
        raise TraceError(f"{place}: rates and weights are finite and not negative")
    if rows and row[0] <= rows[-1][0]:
        raise TraceError(f"{place}: second {row[0]:g} does not come after {rows[-1][0]:g}")
    if rows and len(row) != len(rows[-1]):
        raise TraceError(f"{place}: {len(row)} columns, the rows before have {len(rows[-1])}")
    if len(row) > 2 and sum(row[2:]) <= 0:  # noqa: PLR2004 - those after the two are weights
        raise TraceError(f"{place}: the weights add up to nothing")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True

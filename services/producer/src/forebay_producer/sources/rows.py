"""One row at a time from lines: a JSON object a line, or CSV, whose quoted values may hold line breaks."""

import csv
from collections.abc import Iterator
from typing import Any, Protocol

import msgspec

from forebay.errors import Refused
from forebay_producer.sources.lines import MAX_BYTES, Lines, Unreadable

Row = dict[str, Any]

_BOM = b"\xef\xbb\xbf"


class Rows(Protocol):
    """A file's rows, in the order of its lines."""

    @property
    def lines(self) -> Lines:
        """Where the rows come from."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """What every row has; None where each may have its own."""

    def read(self) -> Row | None:
        """The next row; None for an empty line. Raises StopIteration at the end, Unreadable for what is no row."""


class JsonRows:
    """A JSON object a line."""

    columns = None

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self._decode = msgspec.json.Decoder().decode

    def read(self) -> Row | None:
        """The next line's object."""
        is_first = self.lines.offset == 0
        line = next(self.lines)
        if is_first:
            line = line.removeprefix(_BOM)
        if not line.strip():
            return None
        try:
            row = self._decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Unreadable("malformed", f"no JSON: {error}") from error
        if not isinstance(row, dict):
            raise Unreadable("malformed", f"a JSON {type(row).__name__}, not an object")
        return row


class CsvRows:
    """CSV with a header line; every value is text.

    A broken row costs its own first line and no other: reading continues at the next line, so that a quote which is never
    closed does not swallow the rest of the file.
    """

    def __init__(self, lines: Lines, name: str) -> None:
        csv.field_size_limit(MAX_BYTES)
        self.lines = lines
        self._start = (0, 1)
        self._reader = csv.reader(_Text(self), strict=True)
        self.columns = self._header(name)

    @property
    def start(self) -> tuple[int, int]:
        """Offset and number of the line with which the row began."""
        return self._start

    def read(self) -> Row | None:
        """The next row by its columns' names."""
        self._start = (self.lines.offset, self.lines.number)
        try:
            values = next(self._reader)
        except (csv.Error, UnicodeDecodeError) as error:
            self._resume()
            raise Unreadable("malformed", f"no CSV: {error}") from error
        except Unreadable:
            self._resume()
            raise
        if not values:
            return None
        if len(values) != len(self.columns):
            raise Unreadable("malformed", f"{len(values)} values for {len(self.columns)} columns")
        return dict(zip(self.columns, values, strict=True))

    def _resume(self) -> None:
        """Continue behind the line with which the broken row began."""
        if self.lines.number > self._start[1] + 1:
            self.lines.seek(*self._start)
            try:
                next(self.lines)
            except Unreadable:
                return

    def _header(self, name: str) -> tuple[str, ...]:
        try:
            columns = tuple(next(self._reader, ()))
        except (csv.Error, UnicodeDecodeError, Unreadable) as error:
            raise Refused(f"the first line of {name} is no CSV header: {error}") from error
        if not any(columns):
            raise Refused(f"{name} has no header line: its first line must name the columns")
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise Refused(
                f"the header of {name} names {', '.join(map(repr, twice))} twice: every column needs its own name"
            )
        return columns


class _Text:
    """The lines as text for csv.reader, which asks for as many as the row needs and no more."""

    def __init__(self, rows: CsvRows) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        lines = self._rows.lines
        if lines.offset - self._rows.start[0] > MAX_BYTES:
            raise Unreadable("too-long", f"the row is longer than {MAX_BYTES} bytes; is a quote never closed?")
        is_first = lines.offset == 0
        line = next(lines)
        return (line.removeprefix(_BOM) if is_first else line).decode()

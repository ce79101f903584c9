"""Lines of a file with the bytes and the number at which they stand, in bounded memory."""

import os
import zlib
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 1 << 20
"""A longer line or row is an error, not memory."""
_CHECKED_BYTES = 4096


class Unreadable(Exception):  # noqa: N818 - what it says of one event, not of the process
    """A line or row that is no record: a short constant word, and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Lines:
    """The lines of a file, from any byte on; `offset` and `number` are those of the next one, counted from 0 and 1."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        self.offset = 0
        self.number = 1

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> bytes:
        """The next line with its end. Raises Unreadable, behind it, when it is too long."""
        line = self._file.readline(MAX_BYTES + 1)
        if not line:
            raise StopIteration
        self.offset += len(line)
        self.number += 1
        if len(line) > MAX_BYTES:
            self._skip_rest(line)
            raise Unreadable("too-long", f"the line is longer than {MAX_BYTES} bytes")
        return line

    def _skip_rest(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._file.readline(MAX_BYTES)
            self.offset += len(line)

    def seek(self, offset: int, number: int) -> None:
        """Continue at the line that begins at the offset."""
        if offset != self.offset:
            self._file.seek(offset)
        self.offset, self.number = offset, number

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def checksum(self, offset: int) -> int | None:
        """A checksum of the bytes before the offset, by which a changed file is noticed; None when there are too few."""
        size = min(offset, _CHECKED_BYTES)
        before = os.pread(self._file.fileno(), size, offset - size)
        return zlib.crc32(before) if len(before) == size else None

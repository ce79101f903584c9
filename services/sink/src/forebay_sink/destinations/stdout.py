"""One JSON document a line on standard output, at least once: a pipe keeps no position, so the group's offset is it."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from forebay.errors import TryLater
from forebay.runtime.stage import DeadLetter
from forebay.runtime.storing import Move, NobodyReads
from forebay_sink.rows import RowDecoder


class Lines:
    """Writes to a file descriptor, past Python's buffer: what is committed has left this process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = RowDecoder(None)

    def prepare(self, topic_id: str) -> None:
        """There is nothing to prepare."""

    def positions(self, partitions: Collection[int]) -> Mapping[int, int | None]:
        """None are kept."""
        del partitions
        return {}

    def decode(self, messages: Sequence[Any]) -> tuple[list[bytes], list[DeadLetter]]:
        """The records' values as lines; between the tokens of a JSON text a line break is a space."""
        rows, letters = self._decoder.decode(messages)
        return [(value or "null").replace("\n", " ").replace("\r", " ").encode() for _key, value in rows], letters

    def store(self, rows: Sequence[bytes], moves: Sequence[Move], before_commit: Callable[[], None]) -> None:
        """Write the lines. Raises NobodyReads when the pipe's other end is closed."""
        del moves
        before_commit()
        text = memoryview(b"".join(row + b"\n" for row in rows))
        try:
            while text:
                text = text[os.write(self._descriptor, text) :]
        except BrokenPipeError as error:
            raise NobodyReads("standard output was closed by its reader") from error
        except OSError as error:
            raise TryLater(f"standard output cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """It is not ours to close."""

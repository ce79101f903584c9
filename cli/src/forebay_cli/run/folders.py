"""The folder of a run: `kafka` (the embedded broker's data), `logs`, `decisions` on replicas, and one folder per replica.

A lock on the folder is held for as long as the run lasts and vanishes with the process, however it ends.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forebay.errors import ForebayError


class FolderError(ForebayError):
    """The folder cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A folder that this run alone uses."""

    path: Path
    is_kept: bool
    """Chosen by the user, and so left as it is; otherwise Kafka's data are removed at the end."""

    @property
    def kafka(self) -> Path:
        """The embedded broker's folder."""
        return self.path / "kafka"

    @property
    def decisions(self) -> Path:
        """Where `forebay explain` finds what was decided on replicas: a file per stage."""
        return self.path / "decisions"

    def tidy(self) -> None:
        """Remove what nobody needs after a fresh run; results and logs stay."""
        if not self.is_kept:
            shutil.rmtree(self.kafka, ignore_errors=True)


@contextlib.contextmanager
def opened(data: Path | None, pipeline: str, state_home: str | None) -> Iterator[RunFolder]:
    """The user's folder, or a fresh one below `state_home` (or the system's temporary folder)."""
    try:
        path = data.absolute() if data is not None else _fresh(pipeline, state_home)
        (path / "logs").mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        where = data if data is not None else "the folder for temporary files"
        raise FolderError(
            f"cannot write to {where}: {error.strerror}; choose another folder with --data DIR"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderError(
                f"{path} is in use by another run: wait until it has ended, or choose another folder with --data DIR"
            ) from error
        yield RunFolder(path, is_kept=data is not None)
    finally:
        os.close(lock)


def write_report(file: Path, content: Mapping[str, object]) -> None:
    """Write JSON so that a reader sees the old file or the whole new one; OSError when that fails."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", delete=False) as partial:
        try:
            json.dump(content, partial, indent=2)
            partial.write("\n")
            partial.flush()
            os.fsync(partial.fileno())
            Path(partial.name).chmod(0o644)
            Path(partial.name).replace(file)
        except BaseException:
            Path(partial.name).unlink(missing_ok=True)
            raise


def _fresh(pipeline: str, state_home: str | None) -> Path:
    parent = Path(state_home) / "forebay" if state_home else Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"forebay-{pipeline}-", dir=parent))

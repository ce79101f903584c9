"""Things that are made once: named by a hash of what they are made of, so that nothing stale is ever used."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from host import architecture, cache


def digest(parts: Iterable[str | Path]) -> str:
    """Twelve hexadecimal digits over texts, files, and whole folders (names, contents, executable bits)."""
    state = hashlib.sha256(architecture().encode())
    for part in parts:
        if isinstance(part, str):
            state.update(b"text\0" + part.encode() + b"\0")
            continue
        for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if path.is_file():
                name = path.relative_to(part) if part.is_dir() else path.name
                mode = "x" if os.access(path, os.X_OK) else "-"
                state.update(f"file\0{name}\0{mode}\0".encode() + path.read_bytes() + b"\0")
    return state.hexdigest()[:12]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time, over all clones that share the cache."""
    path = cache() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure_folder(target: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is complete whenever it exists: made beside its place, then renamed."""
    with locked(target.name):
        if not target.exists():
            draft = target.with_name(target.name + ".making")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            make(draft)
            draft.rename(target)
    return target

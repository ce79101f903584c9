"""What is wrong with a Pipeline, and where: the value that reading, models and rules all report."""

from dataclasses import dataclass

Path = tuple[str | int, ...]
"""Steps from the root of the document: field names as they stand in the file, and indexes of lists."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to correct. The message says what is wrong and what to do, without repeating the path."""

    path: Path
    message: str


def spelled(path: Path) -> str:
    """The path as people write it, e.g. `spec.processors[0].transforms[1].movingAverage.window`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")

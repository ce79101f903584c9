"""How many records bounded sources will send: what a progress bar needs to know."""

from collections.abc import Iterable
from pathlib import Path

from forebay.pipeline.spec import FileFormat, FileSource, Producer
from forebay_cli.run.launches import Launch

_PROBE_BYTES = 4 << 20


def expected_records(planned: Iterable[Launch], pipeline_folder: Path) -> int | None:
    """The records of all sources together, near enough for a progress bar; None when one of them is endless or unknown."""
    stages: dict[str, tuple[Producer, int | None]] = {}
    for launch in planned:
        if isinstance(launch.stage, Producer):
            _, asked = stages.get(launch.stage.name, (launch.stage, 0))
            stages[launch.stage.name] = (
                launch.stage,
                None if launch.records is None or asked is None else asked + launch.records,
            )
    counts = [_least(asked, _own_records(stage, pipeline_folder)) for stage, asked in stages.values()]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _least(one: int | None, other: int | None) -> int | None:
    known = [count for count in (one, other) if count is not None]
    return min(known) if known else None


def _own_records(stage: Producer, pipeline_folder: Path) -> int | None:
    if stage.source.simulator is not None:
        return stage.source.simulator.records
    return _lines(stage.source.file, pipeline_folder) if stage.source.file is not None else None


def _lines(source: FileSource, folder: Path) -> int | None:
    """The lines of a small file; of a large one, an estimate by the length of its first lines."""
    try:
        with (folder / source.path).open("rb") as file:
            probe = file.read(_PROBE_BYTES)
            size = file.seek(0, 2)
    except OSError:
        return None
    lines = probe.count(b"\n") + (size == len(probe) > 0 and not probe.endswith(b"\n"))
    if size > len(probe):
        lines = round(lines * size / len(probe))
    return max(0, lines - (source.format is FileFormat.CSV))

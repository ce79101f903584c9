"""`python -m forebay_producer`: one replica of a producer, told what to do by its environment and the Pipeline file."""

import contextlib
import sys
import time

import forebay.starting  # noqa: F401 - before what takes long to load
from forebay.errors import Refused
from forebay.pipeline.spec import Producer
from forebay.runtime import service, sourcing
from forebay.runtime.service import Replica
from forebay_producer.sources.file import open_file
from forebay_producer.sources.simulator import Simulation


def source_of(replica: Replica[Producer]) -> sourcing.Source:
    """The source that the stage names; Refused says what is wrong with it."""
    stage = replica.stage
    key = stage.key.field if stage.key else None
    if stage.source.simulator is not None:
        return Simulation(
            stage.source.simulator,
            key=key,
            ordinal=replica.ordinal,
            replicas=stage.replicas,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
    if stage.source.file is not None:
        return open_file(stage.source.file, key=key, folder=replica.settings.pipeline.parent)
    raise Refused(f"this version has no source {stage.source.kind!r}")


def body(replica: Replica[Producer]) -> None:
    """Send what the source has."""
    with contextlib.closing(source_of(replica)) as source:
        sourcing.run(replica, source)


if __name__ == "__main__":
    sys.exit(service.run(Producer, body))

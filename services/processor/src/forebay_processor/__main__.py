"""`python -m forebay_processor`: one replica of a processor."""

import sys

import forebay.starting  # noqa: F401 - before what takes long to load
from forebay.kafka.admin import Admin
from forebay.pipeline import names
from forebay.pipeline.spec import Processor, Transform
from forebay.runtime import service
from forebay.runtime.processing import ProcessingLoop
from forebay.runtime.service import Replica
from forebay.runtime.stage import PartitionStage
from forebay.runtime.state import Store
from forebay.runtime.watching import missing
from forebay_processor.chain import Chain
from forebay_processor.rocksdb_store import Memory, RocksStore

_MEBIBYTE = 1 << 20


def body(replica: Replica[Processor]) -> None:
    """Wait for the topics, then process until asked to stop."""
    admin = Admin(replica.connection)

    def absent() -> str | None:
        # of changelogs the configuration matters, too: whether it may be read shows here, where it can be waited for
        return missing({**admin.describe(topics_of(replica)), **admin.observe(changelogs_of(replica))})

    if not service.wait_until(absent, replica):
        return
    source = admin.describe([replica.stage.from_])[replica.stage.from_]
    partitions = source.partitions if source is not None else 1
    memory = Memory()

    def open_partition(partition: int) -> PartitionStage:
        def open_store(transform: Transform) -> Store:
            folder = f"{transform.name}.v{transform.state_version}"
            return RocksStore(replica.settings.data / "state" / folder / str(partition), memory)

        return Chain(
            replica.stage, open_store, cache_bytes=replica.stage.state_cache_mebibytes * _MEBIBYTE // partitions
        )

    ProcessingLoop(replica, open_partition).run()


def topics_of(replica: Replica[Processor]) -> list[str]:
    """Everything that the stage reads and writes."""
    stage = replica.stage
    return [stage.from_, stage.to, names.dead_letter_topic(stage), *changelogs_of(replica)]


def changelogs_of(replica: Replica[Processor]) -> list[str]:
    """Where the stage keeps its state."""
    return [
        names.changelog_topic(replica.pipeline, replica.stage, transform)
        for transform in replica.stage.transforms
        if transform.is_stateful
    ]


if __name__ == "__main__":
    sys.exit(service.run(Processor, body))

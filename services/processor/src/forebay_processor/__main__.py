"""`python -m forebay_processor`: one replica of a processor."""

import sys

from forebay.pipeline.spec import Processor, Transform
from forebay.runtime import service
from forebay.runtime.processing import ProcessingLoop
from forebay.runtime.service import Replica
from forebay.runtime.stage import PartitionStage
from forebay.runtime.state import MemoryStore, Store
from forebay_processor.chain import Chain

CACHE_BYTES = 256 * 1024 * 1024
"""Bound of the live values of all partitions of a transform together."""


def body(replica: Replica[Processor]) -> None:
    """Process until asked to stop."""

    def open_store(_transform: Transform) -> Store:
        return MemoryStore()

    def open_partition(_partition: int) -> PartitionStage:
        return Chain(replica.stage, open_store, cache_bytes=CACHE_BYTES // 12)

    ProcessingLoop(replica, open_partition).run()


if __name__ == "__main__":
    sys.exit(service.run(Processor, body))

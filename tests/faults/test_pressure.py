"""A producer's queue that is full for long: nothing is lost, memory stays bounded, the input waits. Case 25."""

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from promises import HEALED_S
from services import until
from world import AVERAGE, World, assert_exactly_once, assert_no_open_transactions, readings

QUEUE = """
      kafkaProperties: {queue.buffering.max.messages: "1000"}
      batch: {maxRecords: 5000, maxWaitMs: 200}
"""


def resident_mebibytes(pid: int) -> int:
    """The most memory that the process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) >> 10


@pytest.mark.parametrize(
    ("pauses", "count"),
    [(3, 60_000), pytest.param(12, 400_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])],
    ids=["quick", "long"],
)
def test_25_a_full_queue_is_back_pressure(kafka, tmp_path, pauses, count):
    """Each batch is five times as large as the queue, and the broker stands still again and again."""
    world = World(kafka, tmp_path, AVERAGE, extra=QUEUE)
    records = list(readings(count, devices=500))
    world.write(records[: count // 2])
    with world.service() as service:
        until(lambda: service.metric("forebay_records_in_total") > 0, what="progress", every_s=0.02)
        at_first = resident_mebibytes(service.process.pid)
        writing = threading.Thread(target=world.write, args=(records[count // 2 :],))
        writing.start()
        for _ in range(pauses):
            os.kill(kafka.pid, signal.SIGSTOP)
            try:
                time.sleep(4)
                assert service.is_running()
            finally:
                os.kill(kafka.pid, signal.SIGCONT)
            time.sleep(1)
        writing.join()
        until(world.drained, what="everything processed", deadline_s=HEALED_S + count / 1_000)
        at_last = resident_mebibytes(service.process.pid)
        assert service.stop() == 0

    print(f"{at_first} MiB at first, {at_last} MiB at most")
    assert at_last < at_first + 150, "fetch queues, one batch and a queue of a thousand records take less"
    assert_exactly_once(world, records)
    assert_no_open_transactions(world)

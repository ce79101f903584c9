"""Writes readings at an even rate: a small batch every 10 ms, each stamped with the time at which it was due.

When this process is late, the delay counts as latency. One record per batch carries the product's ingest-time header.
`python pacer.py '{"bootstrap": ..., "topic": ..., "per_second": ..., "seconds": ..., "devices": ...}'`
"""

import json
import random
import sys
import time
from collections.abc import Iterator

from confluent_kafka import Producer

_STEP_S = 0.01


def main(task: dict) -> None:
    """Write for the given time; print the rate that was reached."""
    producer = Producer(
        {
            "bootstrap.servers": task["bootstrap"],
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    templates = list(_templates(task["devices"]))
    per_step = task["per_second"] * _STEP_S
    begun, offset = time.time(), 0
    for step in range(int(task["seconds"] / _STEP_S)):
        due = begun + step * _STEP_S
        if (early := due - time.time()) > 0:
            time.sleep(early)
        stamp = b"%d" % (due * 1000)
        end = int((step + 1) * per_step)
        batch = [
            {"key": key, "value": before + stamp + after}
            for key, before, after in (templates[place % len(templates)] for place in range(offset, end))
        ]
        offset = end
        if batch:
            first = batch.pop()
            producer.produce(task["topic"], first["value"], first["key"], headers=[("forebay-ingest-ms", stamp)])
            producer.produce_batch(task["topic"], batch)
        producer.poll(0)
    seconds = time.time() - begun
    left = producer.flush(30)
    print(json.dumps({"records": offset - left, "per_second": offset / seconds}))


def _templates(devices: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    """100 000 readings without their timestamps."""
    source = random.Random(2)
    for _ in range(100_000):
        key = b"device-%07d" % source.randrange(devices)
        after = b',"temperature_c":%.2f,"humidity_pct":%.1f}' % (source.uniform(-20, 50), source.uniform(0, 100))
        yield key, b'{"device_id":"%b","timestamp":' % key, after


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""Reads committed records as they come and notes how old a sample of them is. Prints the ages' quantiles when asked to end.

`python reader.py '{"consumer": {...}, "topic": ..., "partitions": ..., "ignore_s": ...}'`
"""

import json
import signal
import sys
import time

import msgspec
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

_EVERY = 50


class Reading(msgspec.Struct):
    """All that is needed of a record."""

    timestamp: int


def main(task: dict) -> None:
    """Read until asked to stop."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    consumer = Consumer(task["consumer"])
    consumer.assign([TopicPartition(task["topic"], partition, OFFSET_END) for partition in range(task["partitions"])])
    decode = msgspec.json.Decoder(Reading).decode
    ages, records, first = [], 0, None
    print("reading", flush=True)
    while not stopping:
        messages = [message for message in consumer.consume(10_000, 0.02) if message.error() is None]
        now = time.time()
        first = first or (now if messages else None)
        if first is None or now < first + task["ignore_s"]:
            continue
        records += len(messages)
        ages.extend(now * 1000 - decode(message.value()).timestamp for message in messages[::_EVERY])
    consumer.close()
    ages.sort()
    quantiles = {f"p{share}_ms": round(ages[min(len(ages) - 1, len(ages) * share // 100)], 1) for share in (50, 99)}
    print(json.dumps({**quantiles, "max_ms": round(ages[-1], 1), "samples": len(ages), "records": records}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""The client floor: consuming alone, or producing alone, and no work. Measures itself; prints one line of JSON.

`python floor.py '{"mode": "consume" | "produce", ...}'`. What is produced is read first from the topic that the processor
wrote, and grouped into runs of one partition as its loop does.
"""

import json
import resource
import sys
import time
from itertools import groupby

from confluent_kafka import Consumer, Producer, TopicPartition


class Stopwatch:
    """Processor time and time between `start` and `report`."""

    def start(self) -> None:
        """Begin to count."""
        self._cpu, self._at = _cpu_s(), time.perf_counter()

    def report(self, records: int, memory_kb: int) -> None:
        """Print what was counted; the unit of memory is the system's own."""
        cpu, seconds = _cpu_s() - self._cpu, time.perf_counter() - self._at
        kibibytes = memory_kb / (1024 if sys.platform == "darwin" else 1)
        print(json.dumps({"records": records, "cpu_s": cpu, "seconds": seconds, "memory_mb": kibibytes / 1024}))


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _consumer(task: dict) -> Consumer:
    consumer = Consumer(task["consumer"])
    consumer.assign([TopicPartition(task["topic"], partition, 0) for partition in range(task["partitions"])])
    return consumer


def consume(task: dict) -> None:
    """Take the records as they come and look at none."""
    consumer = _consumer(task)
    stopwatch = Stopwatch()
    _take(consumer, task["warm_up"], task["batch"])
    stopwatch.start()
    taken = _take(consumer, task["measured"], task["batch"])
    stopwatch.report(taken, _memory())
    consumer.close()


def _take(consumer: Consumer, records: int, batch: int) -> int:
    count = 0
    while count < records:
        count += len(consumer.consume(batch, 0.2))
    return count


def produce(task: dict) -> None:
    """Write records that were read before the count begins."""
    runs = _runs(task)
    producer = Producer(task["producer"])
    before = _memory()
    stopwatch = Stopwatch()
    _send(producer, task, runs, task["warm_up"])
    stopwatch.start()
    sent = _send(producer, task, runs, task["measured"])
    stopwatch.report(sent, _memory() - before)


def _runs(task: dict) -> list[list[dict]]:
    consumer = _consumer(task)
    runs, count = [], 0
    while count < task["sample"]:
        messages = [message for message in consumer.consume(task["batch"], 1.0) if message.error() is None]
        for _partition, run in groupby(messages, key=lambda message: message.partition()):
            runs.append([{"key": message.key(), "value": message.value()} for message in run])
        count += len(messages)
    consumer.close()
    return runs


def _send(producer: Producer, task: dict, runs: list[list[dict]], records: int) -> int:
    """Over and over, never into a full queue: what is refused there would cost time too."""
    count = 0
    room = task["producer"]["queue.buffering.max.messages"] - task["batch"]
    while count < records:
        for run in runs:
            while len(producer) > room:
                producer.poll(0.01)
            if producer.produce_batch(task["output"], run) != len(run):
                sys.exit("the client refused records")
            producer.poll(0)
            count += len(run)
    if producer.flush(60):
        sys.exit("the broker does not take the records")
    return count


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    (consume if given["mode"] == "consume" else produce)(given)

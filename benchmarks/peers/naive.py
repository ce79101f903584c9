"""The naive loop: one poll and one produce per record, Python's json module, state in a dict, no transactions.

Offsets are committed by the client every 200 ms, whatever became of the records: a crash loses or repeats some, and all state.
`python naive.py '{"consumer": {...}, "producer": {...}, "input": ..., "output": ..., "window": ...}'`
"""

import json
import signal
import sys
from collections import defaultdict, deque

from confluent_kafka import Consumer, Producer


def main(task: dict) -> None:
    """Work until asked to stop; then flush and commit."""
    consumer, producer = Consumer(task["consumer"]), Producer(task["producer"])
    windows: dict[bytes, deque] = defaultdict(lambda: deque(maxlen=task["window"]))
    output = task["output"]
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    consumer.subscribe([task["input"]])
    while not stopping:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error() is not None:
            sys.exit(str(message.error()))
        reading = json.loads(message.value())
        window = windows[message.key()]
        window.append(reading["temperature_c"])
        reading["avg_temperature_c"] = sum(window) / len(window)
        value = json.dumps(reading)
        while True:
            try:
                producer.produce(output, value, message.key())
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(30)
    consumer.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

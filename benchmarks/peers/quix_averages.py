"""Quix Streams as a peer: exactly once, RocksDB, a changelog. Runs in a virtual environment of its own.

`python quix_averages.py '{"bootstrap": ..., "group": ..., "input": ..., "output": ..., "state": folder, ...}'`
"""

import json
import sys

from quixstreams import Application, State


def main(task: dict) -> None:
    """Work until asked to stop."""
    size = task["window"]

    def add_average(reading: dict, state: State) -> dict:
        window = state.get("window", [])
        window.append(reading["temperature_c"])
        if len(window) > size:
            del window[0]
        state.set("window", window)
        reading["avg_temperature_c"] = sum(window) / len(window)
        return reading

    application = Application(
        task["bootstrap"],
        consumer_group=task["group"],
        state_dir=task["state"],
        consumer_extra_config=task["consumer"],
        producer_extra_config=task["producer"],
        **task["application"],
    )
    source = application.topic(task["input"], key_deserializer="bytes", value_deserializer="json")
    target = application.topic(task["output"], key_serializer="bytes", value_serializer="json")
    frame = application.dataframe(source)
    frame = frame.apply(add_average, stateful=True)
    frame.to_topic(target)
    application.run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""A Pipeline of one processor with topics of its own, and the oracles that tell whether it did its work right."""

import json
import math
import random
import shutil
from array import array
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import NamedTuple

import pytest
import topics
from rocksdict import AccessType, Options, Rdict
from services import Service, Supervised, until


class World:
    """A Pipeline of one processor with topics of its own."""

    def __init__(self, kafka, folder, transforms: str, *, partitions: int = 3, extra: str = "", stateful: bool = True):
        self.bootstrap, self.stateful = kafka.bootstrap_servers, stateful
        self.name = topics.unique("p")
        self.raw, self.enriched = f"{self.name}.raw", f"{self.name}.enriched"
        self.dlq = f"{self.raw}.dlq"
        self.group = f"default.{self.name}.enrich"
        self.changelog = f"default.{self.name}.enrich.avg.v1.changelog"
        topics.create(self.bootstrap, self.raw, self.enriched, self.dlq, partitions=partitions)
        if stateful:
            topics.create(self.bootstrap, self.changelog, partitions=partitions, config={"cleanup.policy": "compact"})
        self.folder = folder
        self.yaml = f"""
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {self.name}}}
spec:
  kafka: {{bootstrapServers: unused:1}}
  topics:
    - {{name: {self.raw}, partitions: {partitions}}}
    - {{name: {self.enriched}, partitions: {partitions}}}
  processors:
    - name: enrich
      from: {self.raw}
      to: {self.enriched}
{extra}
      transforms:
{transforms}
"""

    def service(self, ordinal: int = 0, **extra) -> Service:
        return Service(self.folder, self.yaml, "enrich", "processor", self.bootstrap, ordinal, **extra)

    def supervised(self, bootstrap: str | None = None) -> Supervised:
        """The only replica, started again when it was fenced; `bootstrap` where it knows the brokers by other addresses."""
        return Supervised(self.folder, self.yaml, "enrich", "processor", bootstrap or self.bootstrap)

    def write(self, records) -> None:
        topics.write(self.bootstrap, self.raw, records)

    def drained(self) -> bool:
        return topics.lag(self.bootstrap, self.group, self.raw) == 0

    def lose_the_stores_between(self, former, later) -> None:
        """The former records are processed, the later ones are not, and the local stores have to be restored."""
        self.write(former)
        with self.service() as service:
            until(self.drained, what="the first part processed")
            assert service.stop() == 0
        self.write(later)
        shutil.rmtree(self.folder / "enrich-0")

    def output(self):
        return topics.read(self.bootstrap, self.enriched)

    def dead(self):
        return topics.read(self.bootstrap, self.dlq)


AVERAGE = """
        - name: avg
          movingAverage: {field: temperature_c, window: 10, output: avg_temperature_c}
"""


def readings(count: int, devices: int = 20, seed: int = 7, start: int = 0):
    source = random.Random(seed)
    for sequence in range(start, start + count):
        device = f"device-{source.randrange(devices)}"
        value = {"device_id": device, "timestamp": sequence, "temperature_c": round(source.uniform(-40, 60), 3)}
        yield device, json.dumps(value).encode()


def expected_averages(records, window: int = 10) -> dict[tuple[str, int], float]:
    """(device, timestamp) -> the mean that a reader of the whole input computes, to the last digits of a float."""
    windows = defaultdict(lambda: deque(maxlen=window))
    averages = {}
    for _key, text in records:
        value = json.loads(text)
        recent = windows[value["device_id"]]
        recent.append(value["temperature_c"])
        mean = math.fsum(recent) / len(recent)
        averages[value["device_id"], value["timestamp"]] = pytest.approx(mean, rel=1e-12, abs=1e-12)
    return averages


class Tally(NamedTuple):
    """What went wrong, in records."""

    lost: int
    duplicated: int
    wrong: int
    """With another mean than a reader of the whole input computes, or of no input at all."""


def tally(world: World, records) -> Tally:
    expected = expected_averages(records)
    found = [json.loads(message.value()) for message in world.output()]
    places = Counter((value["device_id"], value["timestamp"]) for value in found)
    return Tally(
        lost=len(expected.keys() - places.keys()),
        duplicated=places.total() - len(places),
        wrong=sum(
            expected.get((value["device_id"], value["timestamp"])) != value["avg_temperature_c"] for value in found
        ),
    )


def averages_of(messages) -> dict[tuple[str, int], float]:
    found = {}
    for message in messages:
        value = json.loads(message.value())
        place = (value["device_id"], value["timestamp"])
        assert place not in found, f"twice: {place}"
        found[place] = value["avg_temperature_c"]
    return found


# -- oracles ------------------------------------------------------------------------------------------------------------


def assert_exactly_once(world: World, records, window: int = 10) -> None:
    """Ledger and running aggregate: every reading once, each with the mean that a reader of the whole input computes."""
    assert averages_of(world.output()) == expected_averages(records, window)


def assert_order_per_key(world: World) -> None:
    """Within a key the output stands in the input's order."""
    last: dict[bytes, int] = {}
    for message in world.output():
        timestamp = json.loads(message.value())["timestamp"]
        assert last.get(message.key(), -1) < timestamp
        last[message.key()] = timestamp


def assert_no_open_transactions(world: World) -> None:
    """What committed readers see ends where the log ends: nothing hangs."""
    for topic in (world.raw, world.enriched, world.dlq, *([world.changelog] if world.stateful else [])):
        assert topics.ends(world.bootstrap, topic, "read_committed") == topics.ends(
            world.bootstrap, topic, "read_uncommitted"
        ), f"a transaction hangs in {topic}"


def windows_of_input(records, window: int = 10) -> dict[bytes, list[float]]:
    """key -> last values: the state that the whole input folds to."""
    folded: dict[bytes, deque] = defaultdict(lambda: deque(maxlen=window))
    for key, text in records:
        folded[key.encode()].append(json.loads(text)["temperature_c"])
    return {key: list(values) for key, values in folded.items()}


def windows_of_changelog(world: World) -> dict[bytes, list[float]]:
    """key -> last values as the changelog holds them."""
    last = {message.key(): message.value() for message in topics.read(world.bootstrap, world.changelog)}
    return {key: decode_window(value) for key, value in last.items() if value is not None}


def windows_of_stores(*data: Path) -> dict[bytes, list[float]]:
    """key -> last values in the local stores below the replicas' data folders, which nobody must have open."""
    found: dict[bytes, list[float]] = {}
    for folder in data:
        for store in sorted((folder / "state" / "avg.v1").iterdir()):
            copy = store.with_name(f"{store.name}-copy")
            shutil.copytree(store, copy)
            database = Rdict(
                str(copy),
                options=Options(raw_mode=True),
                column_families={"marks": Options(raw_mode=True)},
                access_type=AccessType.read_only(),
            )
            for key, value in database.items():
                found[bytes(key)] = decode_window(bytes(value))
            database.close()
            shutil.rmtree(copy)
    return found


def decode_window(data: bytes) -> list[float]:
    """Format 1: one byte of format, four of the oldest value's place, then doubles; oldest value first."""
    oldest = int.from_bytes(data[1:5], "little")
    values = array("d", data[5:])
    return list(values[oldest:] + values[:oldest])


def assert_state_is_the_input_folded(world: World, records, *data: Path, window: int = 10) -> None:
    """Local stores (where given) = fold of the changelog = fold of the input."""
    folded = windows_of_input(records, window)
    assert windows_of_changelog(world) == folded
    if data:
        assert windows_of_stores(*data) == folded


def assert_all_is_right(world: World, records, *data: Path) -> None:
    """Every oracle for a moving average; the local stores below `data` only where one replica had all partitions."""
    assert_exactly_once(world, records)
    assert_order_per_key(world)
    assert_no_open_transactions(world)
    assert_state_is_the_input_folded(world, records, *data)

"""Replicas follow a load in a real cluster: the operator in its pod, its Pipeline's stages in theirs, Kafka beside them.

One replica does 400 records/s, by its `rateLimit`: the load is then the same on every machine, and needs no image of its own.
"""

import json
import time
from contextlib import contextmanager, suppress
from itertools import pairwise

import kube
import pytest
from installed import NAME, Installed
from load import Load
from prometheus_client.parser import text_string_to_metric_families
from services import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_500), pytest.mark.usefixtures("definition")]

CAPACITY = 400
FRESHNESS_S = 20
BEHAVIOUR = {"scaleInAfterSeconds": 30, "toZeroAfterSeconds": 30}


class Scaled(Installed):
    """The sensors Pipeline without devices: tests write the readings."""

    def start(self, **autoscaling) -> None:
        """The operator, and the Pipeline with these bounds of its processor."""
        self.install()
        document = self.document(producers=[])
        document["spec"]["processors"][0] |= {
            "rateLimit": CAPACITY,
            "autoscaling": {"maxReplicas": 6, "freshnessSeconds": FRESHNESS_S, "behaviour": BEHAVIOUR, **autoscaling},
        }
        self.apply(document)
        self.until_ready()

    def replicas(self) -> int:
        return json.loads(self.kubectl("get", "statefulset", f"{NAME}-enrich", "-o", "json"))["spec"]["replicas"]

    def until_replicas(self, count: int, deadline_s: float) -> None:
        until(lambda: self.replicas() == count, what=f"{count} replicas", deadline_s=deadline_s, every_s=0.5)

    def stage(self) -> dict:
        """What the status says of the processor."""
        stages = self.pipeline().get("status", {}).get("stages", ())
        return next((stage for stage in stages if stage["name"] == "enrich"), {})

    def rescales(self) -> list[str]:
        """What the operator did to the processor's replicas, each with its reason, from Events."""
        found = kube.get("events.v1.events.k8s.io", namespace=self.namespace)
        notes = [(event["eventTime"], event["note"]) for event in found if event["reason"] == "Scaled"]
        return [note for _, note in sorted(notes) if f"{NAME}-enrich " in note]

    def metric(self, name: str) -> float | None:
        """A figure of the processor, None while the operator shows none."""
        for family in text_string_to_metric_families(self.metrics()):
            for sample in family.samples:
                if sample.name == name and sample.labels.get("stage") == "enrich":
                    return sample.value
        return None

    def behind_s(self) -> float | None:
        return self.metric("forebay_operator_behind_seconds")

    def watch(self, seconds: float, look) -> list:
        """What a look returns, every two seconds; a look that fails is left out."""
        found, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(kube.CommandError, ValueError):  # the operator's pod may be on its way out
                found.append(look())
            time.sleep(2)
        return found

    @contextmanager
    def load(self, per_second: int, *, devices: int = 600):
        """Readings at that rate, over all partitions; of one device: in one partition."""
        with Load(self, per_second=per_second, devices=devices) as load:
            yield load


@pytest.fixture
def place(surroundings):
    with Scaled(surroundings) as found:
        yield found


def test_a_step_of_load_is_followed_and_given_back(place):
    """To three times what one replica does: fresh again within a minute, with two rescales at most, and back again."""
    place.start()
    with place.load(CAPACITY * 3 // 4) as calm:
        place.watch(60, place.replicas)
        assert place.rescales() == []
    with place.load(3 * CAPACITY) as high:
        place.watch(60, place.replicas)
        up = place.rescales()
        later = place.watch(60, place.behind_s)
    assert 1 <= len(up) <= 2, up
    assert place.replicas() >= 4
    assert all(behind is not None and behind < FRESHNESS_S for behind in later), later

    place.until_replicas(1, deadline_s=300)
    down = place.rescales()[len(up) :]
    assert len(down) <= 2, down
    assert all("LoadFell" not in note for note in up)
    place.until_stored(len(calm.records) + len(high.records))
    assert place.stored() == len(calm.records) + len(high.records)


def test_an_idle_stage_sleeps_and_the_first_record_wakes_it(place):
    place.start(scaleToZero=True)
    with place.load(50) as first:
        place.until_stored(100)
    place.until_replicas(0, deadline_s=180)
    asleep = place.watch(60, place.replicas)
    assert set(asleep) == {0}
    assert place.condition("Ready")["status"] == "True"
    until(lambda: place.pipeline()["status"]["why"] in {"IdleAtZero", "WentIdle"}, what="WHY says so", deadline_s=60)

    with place.load(50) as second:
        begun = time.monotonic()
        place.until_replicas(1, deadline_s=30)
        place.until_stored(len(first.records) + 1, deadline_s=60)
        print(f"awake and at work after {time.monotonic() - begun:.0f} s")
    place.until_stored(len(first.records) + len(second.records))


def test_one_hot_partition_is_a_condition_and_not_replicas(place):
    """More than one replica can do of one key, which other replicas cannot take over."""
    place.start()
    with place.load(CAPACITY // 4), place.load(2 * CAPACITY, devices=1):
        until(
            lambda: place.condition("Scaling")["status"] == "False",
            what="what keeps the stage from being scaled is a condition",
            deadline_s=600,
            every_s=2,
        )
        told = place.condition("Scaling")
        assert told["reason"] == "HotPartition", told
        assert "enrich: partition " in told["message"]
        # before a replica was seen to be busy nobody knows what it can do: one that brings nothing may have come
        assert place.replicas() <= 2
        assert place.pipeline()["status"]["why"] == "HotPartition"


def test_a_restart_of_the_operator_decides_nothing_wrong_and_forgets_nothing(place):
    place.start()
    with place.load(5 * CAPACITY // 2):
        until(lambda: place.replicas() > 1, what="replicas follow", deadline_s=90)
        until(lambda: "capacity" in place.stage().get("scaling", {}), what="its capacity is remembered", deadline_s=120)
        place.watch(60, place.replicas)
        before, rescales = place.replicas(), place.rescales()
        remembered = place.stage()["scaling"]
        place.kubectl("delete", "pod", place.operator_pod(), "--force", "--grace-period=0")
        seen = place.watch(90, place.replicas)

        assert set(seen) == {before}
        assert place.rescales() == rescales
        assert place.stage()["scaling"]["changedAt"] == remembered["changedAt"]
        capacity = place.metric("forebay_operator_replica_capacity_records_per_second")
        assert capacity == pytest.approx(CAPACITY, rel=0.25)


def test_a_broker_that_is_away_changes_no_replicas(place):
    place.start()
    with place.load(5 * CAPACITY // 2) as load:
        until(lambda: place.replicas() > 1, what="replicas follow", deadline_s=90)
        place.watch(60, place.replicas)
        before = place.replicas()
        kube.kubectl("delete", "pod", "kafka-0", "--grace-period=5", namespace=place.surroundings.namespace)
        seen = place.watch(20, place.replicas)
        kube.kubectl(
            "rollout", "status", "statefulset/kafka", "--timeout", "150s", namespace=place.surroundings.namespace
        )
        place.surroundings.reconnect()
        seen += place.watch(30, place.replicas)
        assert min(seen) == before, "fewer replicas on no measurement"
    place.until_stored(len(load.records), deadline_s=180)


def test_a_storm_of_rebalances_takes_no_replica_away(place):
    place.start()
    with place.load(5 * CAPACITY // 2) as load:
        until(lambda: place.replicas() > 1, what="replicas follow", deadline_s=90)
        place.watch(60, place.replicas)
        seen = [place.replicas()]
        for _ in range(10):
            place.kubectl("delete", "pod", f"{NAME}-enrich-0", "--wait=false")
            seen += place.watch(6, place.replicas)

        assert all(later >= earlier for earlier, later in pairwise(seen)), seen
    place.until_stored(len(load.records), deadline_s=180)


def test_a_pipeline_is_explained(place):
    """What `forebay explain NAME` reads is what the operator wrote, and its log holds whole decisions."""
    from forebay_cli import explain

    place.start()
    with place.load(3 * CAPACITY):
        until(lambda: place.replicas() > 1, what="replicas follow", deadline_s=90)
        until(
            lambda: place.stage().get("replicas", 1) > 1 and "rate" in place.stage(),
            what="the status tells",
            deadline_s=90,
        )
    told = "\n".join(explain.of_pipeline(place.pipeline(), time.time()))
    assert "allowed: 1 to 6 replicas, 20 s behind at most" in told
    assert "replicas were changed last at" in told
    logged = [json.loads(line) for line in place.kubectl("logs", place.operator_pod()).splitlines() if line[:1] == "{"]
    assert any(line["event"] == "decision" and line["stage"] == "enrich" for line in logged)

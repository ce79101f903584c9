"""A new version of the operator renders Pipelines anew: a few at a time roll out, and those that do not get ready stop the rest.

The new version is a `helm upgrade` with values that change the pods of all stages.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import kube
import pytest
from installed import Installed
from services import until

from forebay.pipeline import names
from forebay_operator.upgrades import AT_A_TIME, PATIENCE_S

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_500), pytest.mark.usefixtures("definition")]

COUNT = AT_A_TIME + 3
VERSION = "example.com/version"
NOWHERE = {"forebay.dev/nowhere": "true"}
EVERYWHERE = {"kubernetes.io/os": "linux"}
SMALL = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}}


@dataclass(frozen=True)
class Look:
    """What there is at one moment, by the names of Pipelines."""

    templates: Mapping[str, str]
    """What the StatefulSets are stamped with: something else as soon as their Pipeline is rendered anew."""
    rolled_out: frozenset[str]
    conditions: Mapping[str, Mapping[str, str]]
    """Ready of each."""

    @property
    def ready(self) -> frozenset[str]:
        return frozenset(name for name, condition in self.conditions.items() if condition["status"] == "True")

    def anew(self, before: "Look") -> frozenset[str]:
        """Those that were rendered anew."""
        return frozenset(name for name, stamp in self.templates.items() if stamp != before.templates[name])

    def is_done(self, before: "Look") -> bool:
        """Every Pipeline was rendered anew, and is ready since."""
        return self.anew(before) == self.rolled_out == self.ready == before.templates.keys()


def is_rolled_out(workload: Mapping) -> bool:
    """Whether the controller has seen the StatefulSet's last change, and every replica is of it and ready."""
    status, wanted = workload.get("status", {}), workload["spec"]["replicas"]
    return (
        status.get("observedGeneration", 0) >= workload["metadata"]["generation"]
        and status.get("currentRevision") == status.get("updateRevision")
        and status.get("replicas", 0) == status.get("readyReplicas", 0) == wanted
    )


class Several(Installed):
    """Pipelines of one small pod each, with a topic of its own."""

    def several(self, chosen: Iterable[str], **pod) -> list[dict]:
        """Documents of these names; what is said of the pod goes before what all pods have in common."""
        return [self._one(name, pod) for name in chosen]

    def _one(self, name: str, pod: dict) -> dict:
        topic = f"{self.namespace}.{name}"
        producer = {
            "name": "devices",
            "to": topic,
            "key": {"field": "device_id"},
            "source": {"simulator": {"devices": 1, "eventsPerSecond": 1}},
            "pod": {"resources": SMALL, **pod},
        }
        spec = {
            "kafka": {"bootstrapServers": "kafka:9092"},
            "topics": [{"name": topic, "partitions": 1, "replicationFactor": 1}],
            "producers": [producer],
        }
        return {"apiVersion": names.API_VERSION, "kind": "Pipeline", "metadata": {"name": name}, "spec": spec}

    def start(self, documents: list[dict]) -> Look:
        """The operator and these Pipelines; what there is when all are ready."""
        self.install()
        kube.apply("\n---\n".join(map(json.dumps, documents)), self.namespace)

        def settled() -> Look | None:
            look = self.look()
            return look if len(look.rolled_out) == len(look.ready) == len(documents) else None

        return until(settled, what="all Pipelines are ready", deadline_s=300, every_s=1)

    def look(self) -> Look:
        found = kube.get("statefulsets,pipelines", namespace=self.namespace)
        workloads = {
            each["metadata"]["labels"][names.PIPELINE_LABEL]: each for each in found if each["kind"] == "StatefulSet"
        }
        pipelines = {each["metadata"]["name"]: each for each in found if each["kind"] == "Pipeline"}
        unknown = {"type": "Ready", "status": "?", "reason": "?", "message": ""}
        return Look(
            templates={
                name: each["metadata"]["annotations"][names.TEMPLATE_ANNOTATION] for name, each in workloads.items()
            },
            rolled_out=frozenset(name for name, each in workloads.items() if is_rolled_out(each)),
            conditions={
                name: next(
                    (told for told in each.get("status", {}).get("conditions", ()) if told["type"] == "Ready"), unknown
                )
                for name, each in pipelines.items()
            },
        )

    def upgrade(self, is_enough: Callable[[Look], bool], *, deadline_s: float = 300, **values) -> list[Look]:
        """`helm upgrade` with these values, and what there is every 0.3 s, from before it until it is enough."""
        looks = [self.look()]
        end = time.monotonic() + deadline_s
        with ThreadPoolExecutor(1) as pool:
            upgrading = pool.submit(self.install, **values)
            while not is_enough(looks[-1]):
                assert time.monotonic() < end, looks[-1]
                if upgrading.done():
                    upgrading.result()  # raises what failed
                time.sleep(0.3)
                looks.append(self.look())
            upgrading.result()
        return looks

    def watch(self, seconds: float) -> list[Look]:
        """What there is every two seconds."""
        looks, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            looks.append(self.look())
            time.sleep(2)
        return looks

    def workloads_condition(self, name: str) -> dict:
        body = json.loads(self.kubectl("get", "pipeline", name, "-o", "json"))
        return next(each for each in body["status"]["conditions"] if each["type"] == "WorkloadsReady")

    def pods(self) -> dict[str, dict]:
        """The pod of each Pipeline."""
        found = kube.get("pods", "--selector", names.PIPELINE_LABEL, namespace=self.namespace)
        return {pod["metadata"]["labels"][names.PIPELINE_LABEL]: pod for pod in found}


def identity(pod: Mapping) -> tuple[str, int]:
    """Another one when the pod was replaced, or its container restarted."""
    return pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"]


def under_way(before: Look, looks: Iterable[Look]) -> list[int]:
    """At each look, how many were rendered anew and have not been rolled out since. StatefulSets are read in one listing."""
    done: set[str] = set()
    counts = []
    for look in looks:
        anew = look.anew(before)
        done |= anew & look.rolled_out
        counts.append(len(anew - done))
    return counts


@pytest.fixture
def place(surroundings):
    with Several(surroundings) as found:
        yield found


def test_a_few_at_a_time_roll_out(place):
    before = place.start(place.several(f"p{number}" for number in range(COUNT)))
    began = time.monotonic()
    looks = place.upgrade(lambda look: look.is_done(before), podDefaults={"annotations": {VERSION: "2"}})
    took_s = time.monotonic() - began

    rolling, unready = under_way(before, looks), [COUNT - len(look.ready) for look in looks]
    print(
        f"{COUNT} Pipelines are of the new version after {took_s:.0f} s and {len(looks)} looks; "
        f"at most {max(rolling)} under way, {max(unready)} not ready"
    )
    assert 1 <= max(rolling) <= AT_A_TIME, rolling
    assert max(unready) <= AT_A_TIME, unready
    assert {pod["metadata"]["annotations"].get(VERSION) for pod in place.pods().values()} == {"2"}


def test_those_that_do_not_get_ready_stop_the_rest(place):
    """An image that does not exist costs as many Pipelines as may roll out at a time; a version that works mends those."""
    before = place.start(place.several(f"p{number}" for number in range(COUNT)))
    pods = place.pods()
    registry = os.environ.get("FOREBAY_REGISTRY") or "localhost"
    looks = place.upgrade(
        lambda look: len(look.anew(before)) >= AT_A_TIME,
        images={"registry": registry, "producer": "localhost/no-such-image:1"},
    )
    broken = looks[-1].anew(before)
    held = before.templates.keys() - broken
    looks += place.watch(PATIENCE_S / 2)
    place.kubectl("delete", "pod", place.operator_pod(), "--force", "--grace-period=0")  # its successor remembers
    looks += place.watch(PATIENCE_S / 2 + 60)

    assert max(under_way(before, looks)) == len(broken) == AT_A_TIME
    assert {look.anew(before) for look in looks if len(look.anew(before)) >= AT_A_TIME} == {broken}
    assert all(held <= look.ready for look in looks), "who waits runs on"
    now = place.pods()
    assert {name: identity(now[name]) for name in held} == {name: identity(pods[name]) for name in held}
    told = {looks[-1].conditions[name]["reason"] for name in broken}
    assert told <= {"ErrImagePull", "ImagePullBackOff"}, told
    assert {place.workloads_condition(name)["reason"] for name in held} == {"UpgradeStopped"}
    assert any(name in place.workloads_condition(min(held))["message"] for name in broken)

    place.upgrade(lambda look: not look.anew(before) and look.rolled_out == look.ready == before.templates.keys())


def test_one_that_does_not_get_ready_stops_those_that_come_later(place):
    """One alone leaves room beside it; once it has taken too long, that room is given to nobody until it is mended."""
    fragile = place.several(["fragile"])
    sturdy = place.several(["sturdy", "late"], nodeSelector=EVERYWHERE)
    before = place.start([*fragile, *sturdy])
    place.kubectl("annotate", "pipeline", "late", f"{names.PAUSED_ANNOTATION}=true")
    until(lambda: place.look().conditions["late"]["reason"] == "Paused", what="it is paused", every_s=0.5)

    place.upgrade(
        lambda look: look.anew(before) == {"fragile", "sturdy"} and "sturdy" in look.rolled_out & look.ready,
        podDefaults={"annotations": {VERSION: "2"}, "nodeSelector": NOWHERE},
    )
    waited = place.watch(PATIENCE_S + 30)
    assert {look.anew(before) for look in waited} == {frozenset({"fragile", "sturdy"})}
    assert waited[-1].conditions["fragile"]["reason"] == "Unschedulable"

    place.kubectl("annotate", "pipeline", "late", f"{names.PAUSED_ANNOTATION}-")
    until(lambda: "late" in place.look().ready, what="it is looked after again", every_s=0.5)
    held = place.watch(60)
    assert {look.anew(before) for look in held} == {frozenset({"fragile", "sturdy"})}
    assert all({"sturdy", "late"} <= look.ready for look in held)

    (mended,) = place.several(["fragile"], nodeSelector=EVERYWHERE)
    place.apply(mended)
    until(lambda: place.look().is_done(before), what="all are of the new version", deadline_s=120, every_s=0.5)

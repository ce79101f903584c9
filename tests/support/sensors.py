"""The sensors Pipeline as a Helm release in a namespace of its own, and whether it stored what it had to."""

import json
import math
import os
import signal
import time
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise

import kube
import pytest
import topics
import yaml
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families
from services import until
from surroundings import Surroundings
from world import expected_averages

import charts

NAME = "sensors"
STAGES = ("devices", "enrich", "warehouse")
VALUES = charts.ROOT / "manifests/dev/values.yaml"
DEVICES, PER_SECOND = 100, 1_000
STEP_MS = 1_000 * DEVICES // PER_SECOND
"""Between two readings of a simulated device."""

Averages = dict[tuple[str, int], float]
"""By device and timestamp."""


class Sensors:
    """Use it as a context manager. The devices send until `stop_load`."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.namespace = topics.unique("e2e")
        self.raw, self.enriched = f"{self.namespace}.raw", f"{self.namespace}.enriched"
        self.table = self.namespace.replace("-", "_")
        text = (
            VALUES.read_text().replace("raw_sensor_events", self.raw).replace("enriched_sensor_events", self.enriched)
        )
        self.values = yaml.safe_load(text)
        self.values["images"] = {"registry": os.environ.get("FOREBAY_REGISTRY") or "localhost"}
        simulator = {"devices": DEVICES, "eventsPerSecond": PER_SECOND}
        self.values["spec"]["producers"][0]["source"] = {"simulator": simulator}
        self.values["spec"]["sinks"][0]["destination"]["postgres"]["table"] = self.table

    @property
    def processor(self) -> dict:
        """The processor in the values, to change."""
        return self.values["spec"]["processors"][0]

    # -- helm -----------------------------------------------------------------------------------------------------

    def install(self, *arguments: str, wait: bool = True) -> str:
        return self._helm("install", *arguments, *(["--wait"] * wait))

    def upgrade(self, *arguments: str, wait: bool = True) -> str:
        return self._helm("upgrade", *arguments, *(["--wait"] * wait))

    def uninstall(self) -> None:
        kube.helm("uninstall", NAME, "--namespace", self.namespace, "--wait", "--timeout", "2m")

    def _helm(self, verb: str, *arguments: str) -> str:
        where = ("--namespace", self.namespace, "--values", "-", "--timeout", "3m")
        return kube.helm(verb, NAME, str(charts.CHART), *where, *arguments, stdin=json.dumps(self.values))

    # -- the cluster ----------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return kube.kubectl(*arguments, stdin=stdin, namespace=self.namespace)

    def workload(self, stage: str) -> str:
        return f"{'deployment' if stage == 'warehouse' else 'statefulset'}/{NAME}-{stage}"

    def pods(self, stage: str | None = None) -> list[dict]:
        """The pods of a stage, or of all, by name; none that is being deleted."""
        found = kube.get("pods", "--selector", selector(stage), namespace=self.namespace)
        return sorted(
            (pod for pod in found if "deletionTimestamp" not in pod["metadata"]),
            key=lambda pod: pod["metadata"]["name"],
        )

    def pod(self, stage: str) -> dict:
        """The one pod of a stage."""
        (found,) = self.pods(stage)
        return found

    def pod_name(self, stage: str) -> str:
        """As kubectl takes it."""
        return f"pod/{self.pod(stage)['metadata']['name']}"

    def containers(self) -> dict[str, int]:
        """How often each pod's container was restarted, by the pod's uid: the same again if no process has ended."""
        return {pod["metadata"]["uid"]: restarts(pod) for pod in self.pods()}

    def replace(self, stage: str) -> None:
        """Delete the stage's pod, as a drained node does, and wait until its successor is ready."""
        before = self.pod_name(stage)
        uid = self.pod(stage)["metadata"]["uid"]
        self.kubectl("delete", before)
        until(
            lambda: [each["metadata"]["uid"] != uid and is_ready(each) for each in self.pods(stage)] == [True],
            what=f"the successor of {before} is ready",
            deadline_s=90,
            every_s=0.5,
        )

    def is_started(self, stage: str) -> bool:
        pods = self.pods(stage)  # none, right after the install
        return [each["started"] for pod in pods for each in pod["status"].get("containerStatuses", ())] == [True]

    def is_ready(self, stage: str) -> bool:
        return [is_ready(pod) for pod in self.pods(stage)] == [True]

    def wait_ready(self, stage: str) -> None:
        """Wait until the workload has the replicas that it asks for, all of them ready and of its newest version."""
        self.kubectl("rollout", "status", self.workload(stage), "--timeout", "110s")

    def scale(self, stage: str, replicas: int) -> None:
        """Set the replicas and wait until there are so many pods, all ready."""
        self.kubectl("scale", self.workload(stage), "--replicas", str(replicas))
        self._until_pods(replicas, stage)
        self.wait_ready(stage)

    def _until_pods(self, count: int, stage: str | None = None) -> None:
        """Wait until there are so many, those that are being deleted among them."""
        until(
            lambda: len(kube.get("pods", "--selector", selector(stage), namespace=self.namespace)) == count,
            what=f"{stage or 'the release'} has {count} pods",
            deadline_s=120,
            every_s=0.5,
        )

    def stop_all(self) -> tuple[dict[str, int], float]:
        """Scale everything to nothing; the exit code of each pod's container, and the seconds until the last was gone."""
        begun = time.monotonic()
        with kube.exit_codes(self.namespace) as codes:
            self.kubectl("scale", *map(self.workload, STAGES), "--replicas", "0")
            self._until_pods(0)
        return codes, time.monotonic() - begun

    def share_process_namespaces(self) -> None:
        """Let kill -9 reach the services: a process with the number 1 takes no signal from inside that it does not handle."""
        patch = json.dumps({"spec": {"template": {"spec": {"shareProcessNamespace": True}}}})
        for stage in STAGES:
            self.kubectl("patch", self.workload(stage), "--patch", patch)
        for stage in STAGES:
            self.wait_ready(stage)

    def kill(self, stage: str) -> None:
        """kill -9 of the service in its container, and wait until its successor is ready."""
        before = restarts(self.pod(stage))
        own = "for p in /proc/[0-9]*; do if grep -qs 'forebay[_]' $p/cmdline; then kill -9 ${p#/proc/}; fi; done"
        with suppress(kube.CommandError):  # the container ends, and this shell with it
            self.kubectl("exec", self.pod_name(stage), "--", "sh", "-c", own)
        until(lambda: restarts(self.pod(stage)) > before, what=f"{stage} is restarted", deadline_s=120, every_s=0.5)
        (state,) = self.pod(stage)["status"]["containerStatuses"]
        assert state["lastState"]["terminated"]["exitCode"] == 128 + signal.SIGKILL
        until(lambda: self.is_ready(stage), what=f"{stage} is ready again", deadline_s=90, every_s=0.5)

    def log(self, stage: str) -> list[dict]:
        """What the stage's pod has logged."""
        return [json.loads(line) for line in self.kubectl("logs", self.pod_name(stage)).splitlines()]

    def metric(self, pod: str, name: str) -> float:
        """The sum of a metric's samples."""
        families = text_string_to_metric_families(self._ask(pod, "metrics"))
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    def readiness(self, stage: str) -> str:
        """What /readyz answers: `ok`, or what the replica waits for."""
        ask = (
            "import urllib.error, urllib.request\n"
            "try: answer = urllib.request.urlopen('http://localhost:8080/readyz')\n"
            "except urllib.error.HTTPError as error: answer = error\n"
            "print(answer.read().decode())"
        )
        return self.kubectl("exec", self.pod_name(stage), "--", "python3", "-c", ask).strip()

    def _ask(self, pod: str, path: str) -> str:
        """A pod's answer over HTTP, by way of the API server."""
        return kube.kubectl("get", "--raw", f"/api/v1/namespaces/{self.namespace}/pods/{pod}:8080/proxy/{path}")

    # -- what was done --------------------------------------------------------------------------------------------

    def stored(self) -> int:
        """How many rows the table has; 0 while there is no table."""
        if self.surroundings.sql(f"SELECT to_regclass('{self.table}')") == [(None,)]:
            return 0
        return self.surroundings.sql(f"SELECT count(*) FROM {self.table}")[0][0]

    def until_stored(self, count: int, deadline_s: float = 90) -> None:
        until(lambda: self.stored() >= count, what=f"{count} readings are stored", deadline_s=deadline_s, every_s=0.5)

    def until_more_is_stored(self, count: int = PER_SECOND) -> None:
        """Wait until work goes on."""
        self.until_stored(self.stored() + count)

    def stop_load(self) -> None:
        """Let the devices send no more, and wait until what they sent is stored."""
        self.scale("devices", 0)
        sent = len(topics.read(self.surroundings.bootstrap, self.raw))
        self.until_stored(sent, deadline_s=120)

    def progress(self) -> str:
        """Where the readings are: how many in each topic and in the table, and what each group still has to read."""
        bootstrap = self.surroundings.bootstrap
        counts = {topic: len(topics.read(bootstrap, topic)) for topic in (self.raw, self.enriched)}
        lags = {
            stage: {
                partition: lag for partition, lag in topics.lags(bootstrap, self._group(stage), topic).items() if lag
            }
            for stage, topic in (("enrich", self.raw), ("warehouse", self.enriched))
        }
        found = {"records": counts, "rows": self.stored(), "lag": lags, "open transactions": self.open_transactions()}
        return "\n".join(f"{name}: {value}" for name, value in found.items())

    def _group(self, stage: str) -> str:
        return f"{self.namespace}.{NAME}.{stage}"

    def groups_at_rest(self) -> bool:
        """Whether no consumer is a member of the stages' groups."""
        names = [self._group(stage) for stage in ("enrich", "warehouse")]
        admin = AdminClient({"bootstrap.servers": self.surroundings.bootstrap})  # answers as long as somebody holds it
        described = admin.describe_consumer_groups(names)
        return all(each.result(10).state is ConsumerGroupState.EMPTY for each in described.values())

    def open_transactions(self) -> list[str]:
        """The topics in which a transaction waits for its end."""
        ends = lambda topic, isolation: topics.ends(self.surroundings.bootstrap, topic, isolation)  # noqa: E731
        return [
            topic
            for topic in (self.raw, self.enriched)
            if ends(topic, "read_committed") != ends(topic, "read_uncommitted")
        ]

    def readings(self) -> list[tuple[bytes, bytes]]:
        """What the devices sent, in order within a device."""
        return [(each.key(), each.value()) for each in topics.read(self.surroundings.bootstrap, self.raw)]

    def rows(self) -> list[tuple[str, int, float]]:
        """What was stored: device, timestamp, average."""
        return self.surroundings.sql(f"SELECT device_id, timestamp, avg_temperature_c FROM {self.table}")

    def __enter__(self) -> "Sensors":
        kube.create_namespace(self.namespace)
        kube.apply(self.surroundings.aliases(), self.namespace)
        kube.apply(json.dumps(self.surroundings.secret), self.namespace)
        return self

    def __exit__(self, *_rest) -> None:
        kube.delete_namespace(self.namespace)


def selector(stage: str | None = None) -> str:
    """What the pods of a stage, or of all, are selected by."""
    return f"app.kubernetes.io/instance={NAME}" + (f",forebay.dev/stage={stage}" if stage else "")


def is_ready(pod: dict) -> bool:
    return [each["ready"] for each in pod["status"].get("containerStatuses", ())] == [True]


def restarts(pod: dict) -> int:
    return sum(each["restartCount"] for each in pod["status"].get("containerStatuses", ()))


# -- oracles ------------------------------------------------------------------------------------------------------------


def assert_stored_exactly_once(sensors: Sensors, *windows: int) -> None:
    """Every reading that was sent is stored once, with the mean that a reader of the whole topic computes.

    Of several windows each device went from one to the next at one moment.
    """
    readings = sensors.readings()
    assert_sent_without_gap(readings)
    assert_each_is_stored(readings, sensors.rows(), *windows)


def assert_each_is_stored(
    readings: list[tuple[bytes, bytes]], rows: list[tuple[str, int, float]], *windows: int
) -> None:
    """As `assert_stored_exactly_once`, of readings however they were sent."""
    found = {(device, timestamp): average for device, timestamp, average in rows}
    expected = windowed(readings, found, windows) if windows else expected_averages(readings)

    assert len(rows) == len(found), f"{len(rows) - len(found)} readings are stored twice"
    assert len(found.keys() & expected.keys()) == len(expected), f"lost: {sorted(expected.keys() - found.keys())[:5]}"
    assert not found.keys() - expected.keys()
    wrong = [place for place, average in found.items() if expected[place] != average]
    assert not wrong, f"wrong averages: {sorted((*place, found[place], expected[place]) for place in wrong)[:5]}"


def assert_sent_without_gap(
    readings: list[tuple[bytes, bytes]], devices: int = DEVICES, step_ms: int = STEP_MS
) -> None:
    """The devices' clocks rise by one step from reading to reading: none was left out, none was sent again."""
    timestamps = defaultdict(list)
    for _, text in readings:
        reading = json.loads(text)
        timestamps[reading["device_id"]].append(reading["timestamp"])
    assert len(timestamps) == devices
    assert {later - earlier for clock in timestamps.values() for earlier, later in pairwise(clock)} == {step_ms}
    assert len({clock[0] for clock in timestamps.values()}) == 1
    assert max(map(len, timestamps.values())) - min(map(len, timestamps.values())) <= 1


def windowed(readings: list[tuple[bytes, bytes]], found: Averages, windows: tuple[int, ...]) -> Averages:
    """What must be stored when the window was changed on the way: a device changes where the former mean ends to fit.

    What a window held when it was changed stays in it, as far as it fits.
    """
    by_device = defaultdict(list)
    for _, text in readings:
        reading = json.loads(text)
        by_device[reading["device_id"]].append((reading["timestamp"], reading["temperature_c"]))
    averages: Averages = {}
    for device, sent in by_device.items():
        size, *later = windows
        recent: list[float] = []
        for timestamp, temperature in sent:
            before, recent = recent, [*recent, temperature][-size:]
            mean = approximately(recent)
            if later and found.get((device, timestamp)) != mean:
                size, *later = later
                recent = [*before, temperature][-size:]
                mean = approximately(recent)
            averages[device, timestamp] = mean
        assert not later, f"{device} never came to the window of {later[0]}"
    return averages


def approximately(values: list[float]) -> float:
    """Their mean, to be compared with one that was summed in another order."""
    return pytest.approx(math.fsum(values) / len(values), rel=1e-12, abs=1e-12)

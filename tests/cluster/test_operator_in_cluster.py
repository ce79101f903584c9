"""The operator as users have it: installed by Helm, its Pipelines in pods, readings in PostgreSQL."""

import json
import time

import kube
import pytest
from installed import NAME, Installed
from services import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(900), pytest.mark.usefixtures("definition")]


@pytest.fixture
def place(surroundings):
    with Installed(surroundings) as found:
        yield found


@pytest.fixture
def running(place):
    place.install()
    place.apply()
    place.until_ready()
    return place


def test_apply_of_the_sample_becomes_ready_and_stores_readings(place):
    place.install()
    applied = place.apply()
    place.until_ready()
    took_s = time.monotonic() - applied
    place.until_stored(1_000)
    print(f"ready after {took_s:.0f} s")

    columns = ("READY", "REPLICAS", "LAG", "BEHIND", "RATE", "WHY")
    until(
        lambda: all(name in place.pipeline()["status"] for name in ("lag", "behind", "rate")),
        what="the columns are filled",
        deadline_s=90,
    )
    header, row = place.kubectl("get", "pipelines").splitlines()
    assert header.split()[1:7] == list(columns)
    assert row.split()[1:3] == ["True", "3/3"]
    assert "TopicCreated" in place.kubectl("describe", "pipeline", NAME)
    assert took_s < 60


def test_a_stage_that_cannot_start_says_so_and_recovers_when_it_is_mended(running):
    broken = running.document()
    broken["spec"]["processors"][0]["pod"] = {"image": "localhost/no-such-image:1"}
    running.apply(broken)
    pulling = {"ErrImagePull", "ImagePullBackOff"}
    until(lambda: running.condition("WorkloadsReady")["reason"] in pulling, what="it says why", deadline_s=60)
    assert "no-such-image" in running.condition("WorkloadsReady")["message"]
    assert running.pipeline()["status"]["why"] in pulling

    running.apply()
    running.until_ready()
    before = running.stored()
    running.until_stored(before + 500)


def test_a_crashing_stage_is_told_with_its_last_words(running):
    broken = running.document()
    broken["spec"]["sinks"][0]["destination"]["postgres"]["table"] = "pg_tables"  # a view that takes no rows
    broken["spec"]["sinks"][0]["destination"]["postgres"]["schema"] = "pg_catalog"
    running.apply(broken)
    told = until(
        lambda: (found := running.condition("WorkloadsReady"))["reason"] in {"CrashLoopBackOff", "Error"} and found,
        what="it says why",
        deadline_s=120,
    )

    assert "exit code" in told["message"]


def test_the_operator_killed_while_it_works_is_no_trouble(place):
    place.install()
    place.apply()
    for _ in range(3):
        time.sleep(1)
        place.kubectl("delete", "pod", place.operator_pod(), "--force", "--grace-period=0")
    place.until_ready(180)
    place.until_stored(500)


def test_scaling_follows_the_bounds(running):
    wide = running.document()
    wide["spec"]["processors"][0]["autoscaling"] = {"minReplicas": 3, "maxReplicas": 6}
    running.apply(wide)

    def replicas() -> int:
        return json.loads(running.kubectl("get", "statefulset", f"{NAME}-enrich", "-o", "json"))["spec"]["replicas"]

    until(lambda: replicas() == 3, what="it is scaled into its bounds", deadline_s=15)
    until(lambda: running.pipeline()["status"]["replicas"] == "5/5", what="the status says so", deadline_s=120)
    running.until_ready()


def test_uninstalling_strands_nothing_and_stops_nothing(running):
    running.apply(deletionPolicy="Delete")
    until(lambda: running.pipeline()["metadata"].get("finalizers"), what="it is held")
    running.uninstall()

    assert "finalizers" not in running.pipeline()["metadata"]
    before = running.stored()
    running.until_stored(before + 500)
    running.kubectl("delete", "pipeline", NAME, "--timeout=60s")


def test_helm_deploys_and_the_operator_scales(place):
    """`workloads: External`: charts/pipeline makes the pods and the Pipeline object, the operator topics and replicas."""
    import charts

    place.install()
    spec = place.document()["spec"]
    spec["processors"][0]["autoscaling"] = {"minReplicas": 2, "maxReplicas": 4}
    values = {"spec": spec, "pipeline": {"create": True}, "images": {"registry": "localhost"}}
    where = ("--namespace", place.namespace, "--values", "-", "--timeout", "3m", "--wait")
    kube.helm("install", NAME, str(charts.CHART), *where, stdin=json.dumps(values))
    place.until_ready()
    place.until_stored(500)

    place.kubectl("scale", f"statefulset/{NAME}-enrich", "--replicas=1")
    until(
        lambda: (
            json.loads(place.kubectl("get", "statefulset", f"{NAME}-enrich", "-o", "json"))["spec"]["replicas"] == 2
        ),
        what="it is scaled into its bounds",
        deadline_s=60,
    )


def test_the_operators_rights_are_enough(running):
    """It runs under the chart's Role: what it lacks would stand in its log."""
    log = running.kubectl("logs", running.operator_pod())

    assert "forbidden" not in log.lower()
    assert "Traceback" not in log

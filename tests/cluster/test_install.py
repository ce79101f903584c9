"""helm install and uninstall: what runs, under which restrictions, how soon, and what is left."""

import json
from datetime import datetime

import kube
import pytest
from kube import CommandError
from sensors import NAME, STAGES, assert_stored_exactly_once
from services import until

pytestmark = pytest.mark.timeout(600)


def test_readings_are_stored_with_their_averages(sensors):
    sensors.install()
    sensors.until_stored(5_000)
    sensors.stop_load()

    assert_stored_exactly_once(sensors)
    # The same in SQL, as the sample's README has it.
    window = "PARTITION BY device_id ORDER BY timestamp ROWS BETWEEN 9 PRECEDING AND CURRENT ROW"
    expected = f"SELECT avg_temperature_c AS found, avg(temperature_c) OVER ({window}) AS expected FROM {sensors.table}"
    assert sensors.surroundings.sql(f"SELECT max(abs(found - expected)) < 1e-9 FROM ({expected}) AS compared") == [
        (True,)
    ]


def test_pods_have_no_rights(sensors):
    """The namespace refuses what is not restricted; here is what the process in the pod can in fact do."""
    look = (
        "import json, os, pathlib\n"
        "def may_write(folder):\n"
        "    try: (pathlib.Path(folder) / 'x').touch()\n"
        "    except OSError: return False\n"
        "    return True\n"
        "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status') if ':\\t' in line)\n"
        "print(json.dumps({'ids': os.getresuid() + os.getresgid(), 'capabilities': int(status['CapBnd'], 16),\n"
        "  'no_new_privileges': int(status['NoNewPrivs']), 'seccomp': int(status['Seccomp']),\n"
        "  'token': os.path.exists('/var/run/secrets'),\n"
        "  'writes': list(filter(may_write, ('/', '/app', '/etc', '/opt', '/var/tmp')))}))"
    )
    sensors.install()

    for pod in sensors.pods():
        found = json.loads(sensors.kubectl("exec", pod["metadata"]["name"], "--", "python3", "-c", look))
        assert found == {
            "ids": [10001] * 6,
            "capabilities": 0,
            "no_new_privileges": 1,
            "seccomp": 2,  # a filter
            "token": False,
            "writes": [],
        }


def test_a_processor_is_ready_in_less_than_5_seconds(sensors):
    """From the container's start. Kubernetes tells whole seconds: less than 5 by its clock is less than 5."""
    sensors.install()
    sensors.until_stored(1)
    sensors.replace("enrich")

    status = sensors.pod("enrich")["status"]
    (ready,) = (each["lastTransitionTime"] for each in status["conditions"] if each["type"] == "Ready")
    started = status["containerStatuses"][0]["state"]["running"]["startedAt"]
    took = datetime.fromisoformat(ready) - datetime.fromisoformat(started)
    assert took.total_seconds() < 5


def test_uninstalling_leaves_nothing_behind(sensors):
    before = everything_in(sensors.namespace)
    sensors.install()
    sensors.until_stored(1)
    assert everything_in(sensors.namespace) > before
    sensors.uninstall()

    # Pods follow their workloads, and addresses the pods.
    until(lambda: everything_in(sensors.namespace) == before, what="all objects are gone", deadline_s=90, every_s=2)
    assert sensors.groups_at_rest()


def everything_in(namespace: str) -> set[str]:
    """The names of all objects, but for events, which are no part of a release."""
    kinds = kube.kubectl("api-resources", "--namespaced", "--verbs", "list,delete", "--output", "name").split()
    kept = ",".join(kind for kind in kinds if kind.partition(".")[0] != "events")
    return set(kube.kubectl("get", kept, "--output", "name", namespace=namespace).split())


def test_a_wrong_value_is_refused_with_a_sentence(sensors):
    sensors.processor["autoscaling"] = {"minReplicas": 3, "maxReplicas": 2}
    with pytest.raises(CommandError, match="minReplicas 3 is more than maxReplicas 2: raise maxReplicas or lower min"):
        sensors.install()

    assert kube.helm("list", "--all", "--short", "--namespace", sensors.namespace) == ""
    assert sensors.pods() == []


def test_what_the_library_alone_knows_to_be_wrong_fails_the_install_too(sensors):
    sensors.processor["transforms"][0]["movingAverage"]["field"] = "temprature_c"
    with pytest.raises(CommandError, match=f"job {NAME}-topics failed"):
        sensors.install()

    assert "have no field 'temprature_c': did you mean 'temperature_c'?" in sensors.kubectl(
        "logs", f"job/{NAME}-topics"
    )
    assert not any(sensors.pods(stage) for stage in STAGES)

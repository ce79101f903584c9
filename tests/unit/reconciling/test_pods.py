"""What a pod says about itself."""

import pytest

from forebay.planning import pods
from forebay.planning.pods import Trouble


def pod(*, containers=(), conditions=(), **status) -> dict:
    found = {"containerStatuses": list(containers), "conditions": list(conditions), **status}
    return {"metadata": {"name": "sensors-enrich-0", "labels": {"forebay.dev/stage": "enrich"}}, "status": found}


def waiting(reason, message="", **changes) -> dict:
    return {"state": {"waiting": {"reason": reason, "message": message}}, "restartCount": 0, **changes}


CRASHED = {"terminated": {"exitCode": 78, "reason": "Error", "message": "line one\nrefused: no such topic\n"}}
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}


@pytest.mark.parametrize(
    ("found", "trouble"),
    [
        (pod(), None),
        (pod(containers=[waiting("ContainerCreating")]), None),
        (
            pod(containers=[waiting("ImagePullBackOff", "no\n such image")]),
            Trouble("ImagePullBackOff", "no such image"),
        ),
        (
            pod(containers=[waiting("CrashLoopBackOff", "back-off 10s", lastState=CRASHED)]),
            Trouble("CrashLoopBackOff", "exit code 78: refused: no such topic"),
        ),
        (
            pod(containers=[{"state": {"running": {}}, "lastState": CRASHED, "restartCount": 2}]),
            Trouble("Error", "exit code 78: refused: no such topic"),
        ),
        (pod(conditions=[UNSCHEDULABLE]), Trouble("Unschedulable", "0/1 nodes")),
        (pod(reason="Evicted", message="disk"), Trouble("Evicted", "disk")),
    ],
)
def test_trouble_has_the_pods_own_words(found, trouble):
    assert pods.read(found).trouble == trouble


def test_a_ready_pod_has_no_trouble_whatever_happened_before():
    ready = {"type": "Ready", "status": "True"}
    found = pods.read(pod(containers=[{"state": {"running": {}}, "lastState": CRASHED, "restartCount": 9}],
                          conditions=[ready]))  # fmt: skip

    assert (found.is_ready, found.trouble) == (True, None)


def test_messages_stay_short():
    found = pods.read(pod(containers=[waiting("ErrImagePull", "x" * 5_000)])).trouble

    assert found is not None
    assert len(found.message) < 320


NOW = 1_800_000_000.0
STARTED = {"state": {"running": {"startedAt": "2027-01-15T07:59:50Z"}}, "restartCount": 0}
"""Ten seconds ago."""


def test_a_pod_that_runs_and_is_long_not_ready_is_late():
    found = pods.read(pod(containers=[STARTED], podIP="10.0.0.7"))

    assert (found.address, found.running_since) == ("10.0.0.7", NOW - 10)
    assert [found.is_late(NOW - ago) for ago in (0, 5)] == [True, False]
    ready = {"type": "Ready", "status": "True"}
    assert not pods.read(pod(containers=[STARTED], conditions=[ready])).is_late(NOW)
    assert not pods.read(pod(containers=[waiting("ContainerCreating")])).is_late(NOW)


def test_what_a_pod_waits_for_is_told_anew_only_when_words_differ():
    first = pods.in_words("no answer from kafka:9092 for 3.2 s\n", None)

    assert first == "no answer from kafka:9092 for 3.2 s"
    assert pods.in_words("no answer from kafka:9092 for 47 s\n", first) == first
    assert pods.in_words("topic raw does not exist\x00\n", first) == "topic raw does not exist"
    assert len(pods.in_words("x" * 5_000, None)) < 320

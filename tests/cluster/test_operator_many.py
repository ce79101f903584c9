"""Two hundred Pipelines at once: how long, how much memory, how many requests. Pods stay pending: no node fits them."""

import json
import time

import kube
import psutil
import pytest
from operated import SPEC, Operated
from services import until

from forebay_cli.embedded_kafka import EmbeddedKafka

pytestmark = [pytest.mark.long, pytest.mark.timeout(1_800)]

COUNT = 200


@pytest.fixture
def operated(definition, tmp_path):
    with EmbeddedKafka.start(tmp_path / "kafka") as broker, Operated(broker.bootstrap_servers, tmp_path) as place:
        yield place


def mebibytes(process: psutil.Process) -> float:
    """Resident memory of a process and its children, without what they share."""
    family = [process, *process.children(recursive=True)]
    return sum(one.memory_full_info().uss for one in family if one.is_running()) / (1 << 20)


def test_two_hundred_pipelines(operated):
    nowhere = {"pod": {"nodeSelector": {"forebay.dev/nowhere": "true"}}}
    narrow = [topic | {"partitions": 1} for topic in SPEC["topics"]]
    changes = {"topics": narrow} | {
        kind: [stage | nowhere for stage in SPEC[kind]] for kind in ("producers", "processors", "sinks")
    }
    names = [f"p{number:03}" for number in range(COUNT)]
    documents = [
        {
            "apiVersion": "forebay.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": name},
            "spec": operated.spec(name, **changes),
        }
        for name in names
    ]
    process = operated.start(RESYNC_S="30", MEASURE_S="5")
    operated.until_leading()
    kube.apply("\n---\n".join(json.dumps(document) for document in documents), operated.namespace)
    started = time.monotonic()

    def settled() -> bool:
        found = kube.get("pipelines", namespace=operated.namespace)
        reasons = [
            condition["reason"]
            for each in found
            for condition in each.get("status", {}).get("conditions", ())
            if condition["type"] == "TopicsReady"
        ]
        return reasons.count("AsWanted") == COUNT

    peak, end = 0.0, time.monotonic() + 1_200
    family = psutil.Process(process.pid)
    while not settled():
        peak = max(peak, mebibytes(family))
        assert time.monotonic() < end
        time.sleep(2)
    took_s = time.monotonic() - started
    until(lambda: operated.metric(process, "forebay_operator_oldest_unfinished_seconds") < 5, what="it rests",
          deadline_s=300)  # fmt: skip
    time.sleep(60)  # the first numbers are written
    calls = operated.metric(process, "forebay_operator_api_calls_total")
    patches = operated.metric(process, "forebay_operator_status_patches_total")
    cpu = sum(family.cpu_times()[:2])
    time.sleep(120)
    calls = operated.metric(process, "forebay_operator_api_calls_total") - calls
    patches = operated.metric(process, "forebay_operator_status_patches_total") - patches
    cpu = sum(family.cpu_times()[:2]) - cpu
    resting = mebibytes(family)
    print(
        f"{COUNT} Pipelines: as wanted after {took_s:.0f} s; memory {resting:.0f} MiB at rest, {peak:.0f} MiB at most; "
        f"at rest {calls / 2:.0f} requests a minute, {patches / 2:.1f} of them to write a status, {cpu / 1.2:.0f} % of a core"
    )

    assert peak < 250
    assert calls / 2 < 2 * COUNT
    assert patches == 0

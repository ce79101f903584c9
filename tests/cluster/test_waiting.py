"""What a pod needs and does not find: it waits for it, not ready, says so once, and goes on without being restarted."""

import json
import time

import kube
import pytest
from sensors import STAGES, assert_stored_exactly_once
from services import until

pytestmark = pytest.mark.timeout(600)

SECRET = "warehouse-db"
NEEDED = {
    "devices": ["{ns}.raw", "{ns}.sensors.devices.positions"],
    "enrich": ["{ns}.raw", "{ns}.raw.dlq", "{ns}.enriched", "{ns}.sensors.enrich.average.v1.changelog"],
    "warehouse": ["{ns}.enriched", "{ns}.enriched.dlq"],
}
"""Topics by stage."""


def test_pods_wait_for_topics_and_secrets(sensors):
    sensors.kubectl("delete", "secret", SECRET)
    sensors.values["topics"]["job"] = False
    sensors.install(wait=False)
    until(lambda: all(map(sensors.is_started, STAGES)), what="every container runs", every_s=1)
    containers = sensors.containers()

    reasons = {stage: until_it_waits(sensors, stage) for stage in STAGES}
    for stage, needed in NEEDED.items():
        assert reasons[stage].startswith("topics do not exist: ")
        assert reasons[stage].endswith("; create them, for example with `forebay apply`")
        assert all(topic.format(ns=sensors.namespace) in reasons[stage] for topic in needed)
    time.sleep(7)  # they ask again every 2 s
    for stage in STAGES:
        assert waits_of(sensors, stage) == [reasons[stage]]
        assert sensors.readiness(stage) == reasons[stage]
        assert not sensors.is_ready(stage)

    sensors.values["topics"]["job"] = True
    sensors.upgrade(wait=False)
    sensors.wait_ready("devices")
    sensors.wait_ready("enrich")
    reason = until_it_waits(sensors, "warehouse", beyond=1)
    assert SECRET in reason
    assert "password" not in reason.lower()

    kube.apply(json.dumps(sensors.surroundings.secret), sensors.namespace)
    sensors.wait_ready("warehouse")
    assert sensors.containers() == containers
    sensors.until_more_is_stored()
    sensors.stop_load()
    assert_stored_exactly_once(sensors)


def until_it_waits(sensors, stage: str, beyond: int = 0) -> str:
    """The newest reason for which the stage says it waits, once there are more than so many."""
    return until(
        lambda: waits_of(sensors, stage)[beyond:], what=f"{stage} says for what it waits", deadline_s=30, every_s=1
    )[-1]


def waits_of(sensors, stage: str) -> list[str]:
    """The reasons that the stage has logged for waiting."""
    return [line["reason"] for line in sensors.log(stage) if line["event"] == "waiting"]

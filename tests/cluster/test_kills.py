"""Pods that end in the middle of their work: every reading is sent once and stored once, with the right average."""

import kube
import pytest
from sensors import STAGES, assert_stored_exactly_once

pytestmark = pytest.mark.timeout(1200)

ROUNDS = pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.long)])


@ROUNDS
def test_deleted_pods(sensors, rounds):
    sensors.install()
    for _ in range(rounds):
        for stage in STAGES:
            sensors.until_more_is_stored()
            sensors.replace(stage)
    sensors.until_more_is_stored()
    sensors.stop_load()

    assert_stored_exactly_once(sensors)


@ROUNDS
def test_killed_processes(sensors, rounds):
    """kill -9: nothing is committed, nobody leaves the group, and the local state stays as it is."""
    sensors.install()
    sensors.share_process_namespaces()
    for _ in range(rounds):
        for stage in STAGES:
            sensors.until_more_is_stored()
            sensors.kill(stage)
    sensors.until_more_is_stored()
    sensors.stop_load()

    assert_stored_exactly_once(sensors)


def test_stopped_pods_commit_and_end_long_before_they_would_be_killed(sensors):
    sensors.install()
    sensors.until_more_is_stored()
    exit_codes, took_s = sensors.stop_all()

    assert sorted(exit_codes.values()) == [0, 0, 0]
    assert took_s < 20, "the grace period is 75 s"
    # A killed member would stay in its group for 10 s, a killed producer leave its transaction open.
    assert sensors.groups_at_rest()
    assert sensors.open_transactions() == []

    for stage in STAGES:
        sensors.scale(stage, 1)
    sensors.until_more_is_stored()
    sensors.stop_load()
    assert_stored_exactly_once(sensors)


@pytest.mark.long
@pytest.mark.parametrize("name", ["kafka", "postgres"])
def test_the_surroundings_restart(sensors, name):
    """Pods wait for a broker or a database; they are not restarted for it."""
    sensors.install()
    sensors.until_more_is_stored()
    before = sensors.containers()
    kube.kubectl("delete", f"pod/{name}-0", namespace=sensors.surroundings.namespace)
    kube.kubectl("rollout", "status", f"statefulset/{name}", namespace=sensors.surroundings.namespace)
    sensors.surroundings.reconnect()
    sensors.until_more_is_stored()
    assert sensors.containers() == before
    sensors.stop_load()

    assert_stored_exactly_once(sensors)

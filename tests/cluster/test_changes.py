"""Another window, another number of replicas, under load: nothing is lost, nothing twice, and state goes with its partitions."""

import pytest
from sensors import assert_stored_exactly_once
from services import until

pytestmark = pytest.mark.timeout(900)

PARTITIONS = 12


@pytest.mark.parametrize("window", [3, pytest.param(20, marks=pytest.mark.long)])
def test_a_changed_window_rolls(sensors, window):
    sensors.install()
    sensors.until_stored(2_000)  # every window of 10 is full
    before = sensors.containers()
    sensors.processor["transforms"][0]["movingAverage"]["window"] = window
    sensors.upgrade()
    sensors.until_more_is_stored(3_000)
    sensors.stop_load()

    assert before.keys().isdisjoint(sensors.containers())
    assert_stored_exactly_once(sensors, 10, window)


@pytest.mark.parametrize("rounds", [1, pytest.param(4, marks=pytest.mark.long)])
def test_processors_are_scaled_up_and_down(sensors, rounds):
    """A replica that is given a partition without its state would begin its averages anew."""
    sensors.processor["autoscaling"] = {"minReplicas": 1, "maxReplicas": 3}
    sensors.install()
    for _ in range(rounds):
        sensors.until_more_is_stored(2_000)
        sensors.scale("enrich", 3)
        until(lambda: shares(sensors) == [PARTITIONS // 3] * 3, what="each of three has its share", every_s=1)
        counted = {pod: sensors.metric(pod, "forebay_records_in_total") for pod in names(sensors)}
        sensors.until_more_is_stored(2_000)
        assert all(sensors.metric(pod, "forebay_records_in_total") > count for pod, count in counted.items())
        sensors.scale("enrich", 1)
    sensors.until_more_is_stored()
    sensors.stop_load()

    assert_stored_exactly_once(sensors)


def test_an_upgrade_keeps_the_number_of_replicas_and_the_pods(sensors):
    sensors.processor["autoscaling"] = {"minReplicas": 1, "maxReplicas": 3}
    sensors.install()
    sensors.scale("enrich", 2)
    before = sensors.containers()
    sensors.processor["autoscaling"]["maxReplicas"] = 4
    sensors.upgrade()

    assert sensors.containers() == before


def names(sensors) -> list[str]:
    return [pod["metadata"]["name"] for pod in sensors.pods("enrich")]


def shares(sensors) -> list[float]:
    return [sensors.metric(pod, "forebay_assigned_partitions") for pod in names(sensors)]

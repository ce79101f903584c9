"""A new operator renders Pipelines anew a few at a time."""

from forebay.planning import reporting
from forebay_operator.upgrades import AT_A_TIME, PATIENCE_S, Upgrades


def upgrades() -> Upgrades[int]:
    return Upgrades()


def test_a_few_at_a_time():
    found = upgrades()

    assert [found.admits(key, 0.0, was_ready=True) for key in range(AT_A_TIME + 2)] == [True] * AT_A_TIME + [False] * 2
    assert (found.rolling(0.0), found.waiting) == (AT_A_TIME, 2)
    assert found.admits(0, 0.0, was_ready=False)
    found.settled(0)
    assert found.admits(AT_A_TIME, 0.0, was_ready=True)
    assert (found.rolling(0.0), found.waiting) == (AT_A_TIME, 1)


def test_the_first_that_does_not_become_ready_stops_the_rest():
    found = upgrades()
    found.admits(0, 0.0, was_ready=True)

    assert found.admits(1, PATIENCE_S - 1, was_ready=True)
    assert not found.admits(2, PATIENCE_S + 1, was_ready=True)
    assert found.blocker(PATIENCE_S + 1) == 0
    found.settled(0)
    assert found.blocker(PATIENCE_S + 1) is None
    assert found.admits(2, PATIENCE_S + 1, was_ready=True)


def test_one_that_was_not_ready_before_takes_a_place_and_stops_nothing():
    found = upgrades()
    for key in range(AT_A_TIME):
        found.admits(key, 0.0, was_ready=False)

    assert not found.admits(AT_A_TIME, PATIENCE_S, was_ready=True)
    assert found.admits(AT_A_TIME, PATIENCE_S + 1, was_ready=True)
    assert [found.since(key) for key in (0, AT_A_TIME)] == [None, PATIENCE_S + 1]


def test_a_new_operator_goes_on_where_the_former_one_was_stopped():
    """By what the statuses say."""
    former, begun = upgrades(), 1_800_000_000.0
    former.admits(0, begun, was_ready=True)
    status = reporting.upgrade_patch(former.since(0))["status"]
    found = upgrades()
    found.recalled(0, reporting.upgraded_at(status))

    assert found.admits(1, begun + PATIENCE_S, was_ready=True)
    assert not found.admits(2, begun + PATIENCE_S + 1, was_ready=True)


def test_a_status_without_a_time_that_can_be_read_recalls_nothing():
    assert [reporting.upgraded_at(status) for status in ({}, {"upgradedAt": None}, {"upgradedAt": "soon"})] == [
        None
    ] * 3

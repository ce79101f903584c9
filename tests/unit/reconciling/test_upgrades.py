"""A new operator renders Pipelines anew a few at a time."""

from forebay_operator.upgrades import AT_A_TIME, PATIENCE_S, Upgrades


def test_a_few_at_a_time():
    upgrades: Upgrades[int] = Upgrades()

    assert [upgrades.admits(key, 0.0) for key in range(AT_A_TIME + 2)] == [True] * AT_A_TIME + [False] * 2
    assert upgrades.admits(0, 0.0)
    upgrades.settled(0)
    assert upgrades.admits(AT_A_TIME, 0.0)


def test_the_first_that_does_not_become_ready_stops_the_rest():
    upgrades: Upgrades[int] = Upgrades()
    upgrades.admits(0, 0.0)

    assert upgrades.admits(1, PATIENCE_S - 1)
    assert not upgrades.admits(2, PATIENCE_S + 1)
    upgrades.settled(0)
    assert upgrades.admits(2, PATIENCE_S + 1)

"""Partitions that move while transactions are open. Case 11."""

import time

import pytest
from load import Load, until_every_partition_progresses
from promises import TAKEN_OVER_S
from services import until
from world import AVERAGE, World, assert_all_is_right

pytestmark = pytest.mark.timeout(1200)

EVERY_S = 5


def test_11_a_storm_of_rebalances(kafka, tmp_path, scale):
    """A second processor comes and goes every five seconds; each revocation commits what it can and aborts little."""
    world = World(kafka, tmp_path, AVERAGE, partitions=4)
    with world.service(0) as steady:
        with Load(world, per_second=1_000) as load:
            until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            for _ in range(scale.storm_rounds):
                with world.service(1) as guest:
                    guest.until_started()
                    time.sleep(EVERY_S)
                    assert guest.stop() == 0
                until_every_partition_progresses(world, deadline_s=TAKEN_OVER_S)
            committed = steady.metric("forebay_transactions_total", result="committed")
            aborted = steady.metric("forebay_transactions_total", result="aborted")
            assert aborted <= max(2 * scale.storm_rounds, 0.1 * committed)
        until(world.drained, what="everything processed")
        assert steady.stop() == 0

    assert_all_is_right(world, load.records)

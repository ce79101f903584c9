"""Partitions that move while transactions are open (case 11)."""

import time

import pytest
from load import Load, until_every_partition_progresses
from services import until
from world import (
    AVERAGE,
    World,
    assert_exactly_once,
    assert_no_open_transactions,
    assert_order_per_key,
    assert_state_is_the_input_folded,
)

pytestmark = pytest.mark.timeout(900)

EVERY_S = 5
PROGRESS_S = 10


def test_a_storm_of_rebalances(kafka, tmp_path, scale):
    """A second processor comes and goes every five seconds; each revocation commits what it can and aborts little."""
    world = World(kafka, tmp_path, AVERAGE, partitions=4)
    with world.service(0) as steady:
        with Load(world, per_second=1_000) as load:
            until_every_partition_progresses(world, deadline_s=PROGRESS_S)
            for _ in range(scale.storm_rounds):
                with world.service(1) as guest:
                    time.sleep(EVERY_S)
                    assert guest.stop() == 0
                until_every_partition_progresses(world, deadline_s=PROGRESS_S)
            committed = steady.metric("forebay_transactions_total", result="committed")
            aborted = steady.metric("forebay_transactions_total", result="aborted")
            assert aborted <= max(2 * scale.storm_rounds, 0.1 * committed)
        until(world.drained, what="everything processed")
        assert steady.stop() == 0

    assert_exactly_once(world, load.records)
    assert_order_per_key(world)
    assert_no_open_transactions(world)
    assert_state_is_the_input_folded(world, load.records)

"""The line of Pipelines to look at."""

import asyncio

import pytest

from forebay_operator.pending import Pending


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_a_key_stands_in_line_once():
    async def scenario():
        pending = Pending()
        for key in "aabba":
            pending.add(key)

        assert [await pending.take(), await pending.take()] == ["a", "b"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pending.take(), 0.05)

    run(scenario)


def test_a_key_that_is_worked_on_comes_back_when_that_is_done():
    async def scenario():
        pending = Pending()
        pending.add("a")
        await pending.take()
        pending.add("a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pending.take(), 0.05)
        pending.done("a")

        assert await pending.take() == "a"

    run(scenario)


def test_later_waits_and_the_nearest_time_counts():
    async def scenario():
        pending = Pending()
        pending.add_later("a", 30)
        pending.add_later("a", 0.05)
        pending.add_later("a", 60)
        loop = asyncio.get_running_loop()
        started = loop.time()

        assert await pending.take() == "a"
        assert 0.04 < loop.time() - started < 1

    run(scenario)


def test_looking_at_it_earlier_makes_the_appointment_void():
    async def scenario():
        pending = Pending()
        pending.add_later("a", 0.05)
        pending.add("a")
        await pending.take()
        pending.done("a")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pending.take(), 0.15)

    run(scenario)


def test_the_oldest_counts_from_when_it_was_added():
    async def scenario():
        pending = Pending()
        assert pending.oldest_s() == 0
        pending.add("a")
        await pending.take()
        await asyncio.sleep(0.05)

        assert pending.oldest_s() >= 0.05

    run(scenario)

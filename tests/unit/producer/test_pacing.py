import pytest

from forebay.runtime.pacing import Schedule, TokenBucket


def sent(bucket, seconds, *, every=0.001):
    """How many events a loop sends that looks every so many seconds."""
    total = 0
    for tick in range(1, round(seconds / every) + 1):
        available = bucket.available(tick * every)
        bucket.spend(available)
        total += available
    return total


@pytest.mark.parametrize("rate", [1, 7.5, 100, 33_333, 1_000_000])
def test_a_rate_is_kept_in_the_long_run(rate):
    assert sent(TokenBucket(rate, 0.0), 20) == pytest.approx(20 * rate, rel=0.01, abs=1)


def test_the_first_event_of_a_slow_rate_goes_at_once():
    assert TokenBucket(0.1, 5.0).available(5.0) == 1


def test_an_hour_of_standstill_is_made_up_for_one_second_only():
    bucket = TokenBucket(1_000, 0.0)

    assert bucket.available(3600.0) == 1_000


def test_events_of_a_high_rate_go_in_groups():
    bucket = TokenBucket(100_000, 0.0)

    assert bucket.available(0.01) == 0
    assert bucket.wait_s() == pytest.approx(0.01, abs=1e-4)
    assert bucket.available(0.0201) >= 2_000


def test_a_schedule_is_absolute_so_that_delays_do_not_add_up():
    schedule = Schedule(origin_ms=1_000_000, started=50.0, speedup=60)

    assert schedule.wait_s(1_000_000, 50.0) == 0
    assert schedule.wait_s(1_060_000, 50.0) == 1
    assert schedule.wait_s(1_060_000, 50.75) == 0.25
    assert schedule.wait_s(1_060_000, 99.0) == 0
    assert schedule.wait_s(900_000, 50.0) == 0

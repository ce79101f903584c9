import random
from math import inf

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from forebay.errors import Undeliverable
from forebay.runtime.metrics import StageMetrics
from forebay_cli.run.samples import Activity, Histogram, Sample, Tally, parse, total


def exposition(work):
    registry = CollectorRegistry()
    work(StageMetrics("sensors", "enrich", "processor", registry))
    return generate_latest(registry).decode()


def test_a_sample_holds_what_a_services_metrics_say():
    def work(metrics):
        metrics.records_in.inc(10)
        metrics.records_out.inc(7)
        metrics.dead_letters("malformed", 2)
        metrics.dead_letters("invalid-field")
        metrics.error(Undeliverable("x"))
        metrics.latency_seconds.observe(0.02)

    sample = parse(exposition(work))

    assert (sample.records_in, sample.records_out, sample.dead_letters, sample.errors) == (10, 7, 3, 1)
    assert sample.latency.bounds[-1] == inf
    assert sample.latency.counts[-1] == 1


@pytest.mark.parametrize("text", ["<html>", "forebay_records_in_total{ 1", "forebay_records_in_total many"])
def test_what_is_no_exposition_is_refused(text):
    with pytest.raises(ValueError):
        parse(text)


def test_a_total_never_goes_backwards_over_a_restart():
    tally = Tally()
    tally.observe(Sample(records_in=100))
    tally.ended()
    after_death = tally.total.records_in
    tally.observe(Sample(records_in=5))

    assert (after_death, tally.total.records_in) == (100, 105)


def test_a_life_that_was_never_scraped_adds_nothing():
    tally = Tally()
    tally.observe(Sample(records_in=100))
    tally.ended()
    tally.ended()

    assert tally.total == Sample(records_in=100)


def test_the_total_of_no_samples_is_zero():
    assert total([]) == Sample()


def test_a_quantile_is_interpolated_inside_its_bucket():
    histogram = Histogram((1.0, 2.0, 4.0, inf), (0, 10, 20, 20))

    assert tuple(histogram.quantile(share) for share in (0.25, 0.5, 0.75, 1.0)) == (1.5, 2.0, 3.0, 4.0)


def test_beyond_the_last_bound_the_bound_is_all_that_is_known():
    assert Histogram((1.0, inf), (1, 10)).quantile(0.99) == 1.0


def test_without_observations_there_is_no_quantile():
    assert Histogram().quantile(0.5) is None
    assert Histogram((1.0, inf), (0, 0)).quantile(0.5) is None


def test_quantiles_of_merged_histograms_are_those_of_all_observations():
    drawn = random.Random(3)  # a seed, so that the test says the same every time
    observed = [drawn.lognormvariate(-2, 1) for _ in range(4000)]

    def observe(values):
        def work(metrics):
            for value in values:
                metrics.latency_seconds.observe(value)

        return parse(exposition(work)).latency

    merged = observe(observed[:1000]) + observe(observed[1000:])

    assert merged.quantile(0.5) == pytest.approx(sorted(observed)[2000], rel=0.05)
    assert merged.quantile(0.99) == pytest.approx(sorted(observed)[3960], rel=0.1)


def test_histograms_with_different_buckets_are_not_mixed():
    with pytest.raises(ValueError, match="different buckets"):
        _ = Histogram((1.0, inf), (1, 1)) + Histogram((2.0, inf), (1, 1))


def activity(*points):
    recorded = Activity()
    for at, count in points:
        recorded.observe(at, count)
    return recorded


def test_the_rate_is_that_of_the_last_seconds():
    growing = [(second, 0 if second < 10 else (second - 10) * 100) for second in range(21)]

    assert activity(*growing).rate == 100


def test_the_average_leaves_out_the_time_before_the_first_and_after_the_last_record():
    idle_work_idle = [(0, 0), (1, 0), (2, 50), (3, 150), (4, 250), (5, 300), (6, 300), (60, 300)]

    assert activity(*idle_work_idle).average == pytest.approx(100)


def test_an_activity_between_two_observations_is_taken_to_fill_the_time_between_them():
    assert activity((0, 0), (1, 500), (2, 500)).average == 500


def test_nothing_observed_has_no_rate():
    assert (Activity().rate, activity((0, 0), (1, 0)).average) == (0.0, 0.0)

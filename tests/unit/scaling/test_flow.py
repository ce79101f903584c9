"""The stage that reads what a stage writes."""

from planned_world import decision, pipeline

from forebay.planning.scaling import Downstream, downstream_of

CHAIN = pipeline(high=4, sink_high=4)
(ENRICH,), (STORE,) = CHAIN.spec.processors, CHAIN.spec.sinks


def verdict(**figures):
    return decision(STORE.autoscaling, **figures).verdict


def test_a_processor_looks_at_who_reads_its_output():
    seen = downstream_of(ENRICH, CHAIN, {"store": verdict(replicas=2, behind_s=30.0)})

    assert seen == Downstream(name="store", behind_s=30.0, freshness_s=10, is_at_its_limit=False)


def test_a_reader_with_all_replicas_that_it_may_have_is_at_its_limit():
    seen = downstream_of(ENRICH, CHAIN, {"store": verdict(replicas=4)})

    assert seen is not None
    assert seen.is_at_its_limit


def test_a_reader_with_a_replica_for_each_partition_is_at_its_limit():
    seen = downstream_of(ENRICH, CHAIN, {"store": verdict(replicas=3, partitions=3)})

    assert seen is not None
    assert seen.is_at_its_limit


def test_a_reader_of_which_nothing_is_known_says_nothing():
    assert downstream_of(ENRICH, CHAIN, {}) is None
    assert downstream_of(ENRICH, CHAIN, {"store": verdict(missing="no answer")}) is None


def test_nobody_reads_what_a_sink_stores():
    assert downstream_of(STORE, CHAIN, {"enrich": verdict(), "store": verdict()}) is None

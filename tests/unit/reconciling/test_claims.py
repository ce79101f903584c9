"""Who manages a topic that several Pipelines ask for."""

from planned_world import pipeline

from forebay.planning.claims import Claimant, claimant, older_claims


def claim(name, age, cluster="c1", topics=("raw",)) -> Claimant:
    return Claimant(name=name, age=(age, name), cluster=cluster, topics=frozenset(topics))


OWN = claim("default/own", "2026-01-02")


def test_the_oldest_one_does():
    others = [claim("default/b", "2026-01-01T02"), claim("default/a", "2026-01-01T01")]

    assert older_claims(OWN, others) == {"raw": "default/a"}


def test_younger_ones_other_clusters_and_other_topics_do_not_matter():
    others = [
        claim("default/younger", "2026-01-03"),
        claim("default/elsewhere", "2026-01-01", cluster="c2"),
        claim("default/other", "2026-01-01", topics=("other",)),
    ]

    assert older_claims(OWN, others) == {}


def test_of_two_made_in_the_same_second_exactly_one_is_older():
    one, other = claim("default/a", "2026-01-01"), claim("default/b", "2026-01-01")

    assert bool(older_claims(one, [other])) != bool(older_claims(other, [one]))


def test_external_topics_are_claimed_by_nobody():
    found = claimant(pipeline(), created="2026", uid="u", cluster="c1")

    assert {"raw", "enriched", "raw.dlq"} <= found.topics
    assert found.name == "default/sensors"

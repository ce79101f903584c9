"""From Kafka's answers and workloads to decisions: what is asked of whom, and what becomes of an answer that is missing."""

from dataclasses import replace

import pytest
from planned_world import pipeline

from forebay.planning import following
from forebay.planning.following import Answers
from forebay.planning.groups import Group
from forebay.planning.objects import ObjectKey
from forebay.planning.reconciling import Workload
from forebay.planning.scaling import GroupState, History, Reason
from forebay.planning.topics import TopicState

WIDE = pipeline(partitions=2, low=1, high=2)
TOPICS = {
    name: TopicState(name=name, partitions=2, replication_factor=1, config={}, topic_id=f"id-{name}")
    for name in ("raw", "enriched")
}
GROUPS = {"raw": "default.sensors.enrich", "enriched": "default.sensors.store"}


def answers(now=0.0, *, ends=100, committed=100, begin=0, state="STABLE") -> Answers:
    """Every partition of both topics alike, each read by a member of its own."""
    places = [(topic, number) for topic in GROUPS for number in (0, 1)]
    return Answers(
        now=now,
        groups={
            group: Group(
                state=state,
                owners={place: f"member-{place[1]}" for place in places if place[0] == topic},
                committed={place: committed for place in places if place[0] == topic},
            )
            for topic, group in GROUPS.items()
        },
        begins=dict.fromkeys(places, begin),
        ends=dict.fromkeys(places, ends),
    )


def workload(stage: str, **changes) -> Workload:
    key = ObjectKey("StatefulSet", f"sensors-{stage}")
    plain = Workload(key=key, replicas=1, ready=1, present=1, is_observed=True, is_of_one_revision=True)
    return replace(plain, **changes)


BOTH = {"enrich": workload("enrich"), "store": workload("store")}


def follow(histories, said, *, workloads=BOTH, known_topics=TOPICS, is_paused=False, of=WIDE):
    return following.follow(of, histories, said, known_topics=known_topics, workloads=workloads, is_paused=is_paused)


def reason(said: Answers, **changes) -> tuple[Reason, str | None]:
    decision = follow({}, said, **changes)["enrich"].last
    assert decision is not None
    return decision.verdict.reason, decision.verdict.inputs.missing


def test_a_stage_that_keeps_up_is_left_alone():
    assert reason(answers()) == (Reason.KEEPING_UP, None)


def test_everything_that_was_seen_is_looked_at():
    decision = follow(
        {}, answers(ends=130, committed=100), workloads={"enrich": workload("enrich", replicas=2, ready=1)}
    )["enrich"].last
    assert decision is not None
    seen = decision.verdict.inputs

    assert (seen.replicas, seen.ready, seen.partitions, seen.lag) == (2, 1, 2, 60)
    assert seen.group is GroupState.STABLE
    assert decision.policy.max_replicas == 2


@pytest.mark.parametrize(
    ("without", "missing"),
    [
        ({"groups": {}}, "Kafka did not describe the consumer group"),
        ({"ends": {}}, "Kafka did not answer for partitions 0, 1"),
        ({"begins": {}}, "Kafka did not answer for partitions 0, 1"),
        ({"ends": {("raw", 0): 100, ("raw", 1): None}}, "Kafka did not answer for partition 1"),
    ],
)
def test_what_kafka_did_not_answer_is_missing_and_not_zero(without, missing):
    assert reason(replace(answers(), **without)) == (Reason.MEASUREMENT_MISSING, missing)


def test_a_topic_that_nobody_knows_is_missing():
    assert reason(answers(), known_topics={"raw": None})[0] is Reason.MEASUREMENT_MISSING


def test_a_partition_that_was_never_committed_is_read_from_where_the_stage_starts():
    said = answers(ends=130, begin=50)
    groups = {name: replace(group, committed={}) for name, group in said.groups.items()}
    found = follow({}, replace(said, groups=groups))["enrich"].last

    assert found is not None
    assert found.verdict.inputs.lag == 160


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"is_paused": True}, Reason.PAUSED),
        ({"workloads": {"enrich": workload("enrich", is_of_one_revision=False)}}, Reason.ROLLING_OUT),
        ({"workloads": {"enrich": workload("enrich", is_observed=False)}}, Reason.ROLLING_OUT),
        ({"workloads": {"enrich": workload("enrich", ready=0)}}, Reason.STARTING),
        ({"workloads": {"enrich": workload("enrich", replicas=3, ready=3)}}, Reason.OUT_OF_BOUNDS),
    ],
)
def test_what_kubernetes_says_counts(changes, expected):
    assert reason(answers(), **changes)[0] is expected


def test_a_pinned_stage_is_measured_and_nothing_decided_on_it():
    """Whoever deploys it may give it other replicas than the Pipeline says: that is no change of ours."""
    others = BOTH | {"store": workload("store", replicas=7, ready=7)}
    history = follow({}, answers(ends=130), workloads=others)["store"]

    assert history.last is not None
    assert history.last.verdict.inputs.lag == 60
    assert not history.last.verdict.is_change
    assert history.memory.lasting.changed_at is None


def test_a_stage_that_is_not_deployed_is_not_looked_at_and_not_forgotten():
    known = follow({}, answers())
    later = follow(known, answers(5.0), workloads={"store": workload("store")})

    assert later["enrich"] is known["enrich"]
    assert later["store"] is not known["store"]
    assert follow({}, answers(), workloads={}) == {"enrich": History(), "store": History()}


def test_a_stage_that_is_gone_is_forgotten():
    known = follow({}, answers())

    assert follow(known, answers(5.0), of=pipeline(sink=False)).keys() == {"enrich"}


def test_one_decision_of_each_stage_is_kept():
    histories = {}
    for number in range(6):
        histories = follow(histories, answers(5.0 * number), is_paused=number % 2 == 0)

    assert [len(history.log) for history in histories.values()] == [1, 1]


def test_a_writer_looks_at_its_reader():
    """The reader is 20 s behind with all that it may have: the stage before it is told so."""
    said = answers(0.0, ends=1000, committed=1000)
    histories = follow({}, said)
    behind = {place: 9_000 if place[0] == "enriched" else 1000 for place in said.ends}
    for now in (20.0, 40.0):
        histories = follow(histories, replace(answers(now, committed=1000), ends=behind))
    seen = histories["enrich"].last

    assert seen is not None
    assert seen.verdict.inputs.downstream is not None
    assert seen.verdict.inputs.downstream.name == "store"
    assert seen.verdict.inputs.downstream.is_at_its_limit


def test_the_load_is_what_producers_and_others_write():
    assert following.inflow_topics(WIDE) == {"raw"}


def test_partitions_of_topics_that_are_not_there_are_none():
    assert following.partitions_of({"raw", "gone", "unknown"}, {"raw": TOPICS["raw"], "gone": None}) == {
        ("raw", 0),
        ("raw", 1),
    }

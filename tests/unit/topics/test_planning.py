"""Topics: what a Pipeline wants, compared with what Kafka has."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.pipeline.spec import Pipeline
from forebay.planning.topics import (
    AddPartitions,
    AlterConfig,
    CreateTopic,
    Plan,
    Purpose,
    TopicState,
    capped,
    diff,
    names_of,
    wanted,
)

CHANGELOG = "default.sensors.enrich.average.v1.changelog"
POSITIONS = "default.sensors.devices.positions"
TRANSFORMS = {
    "stateful": {"name": "average", "movingAverage": {"field": "temperature_c", "output": "avg"}},
    "stateless": {"name": "some", "filter": {"where": [{"field": "temperature_c", "min": 0}]}},
}


def pipeline(*, raw=None, enriched=None, kind="stateful", dead_letters=None) -> Pipeline:
    stage = {"name": "enrich", "from": "raw", "to": "enriched", "transforms": [TRANSFORMS[kind]]}
    if dead_letters:
        stage["deadLetters"] = {"topic": dead_letters}
    spec = {
        "kafka": {"bootstrapServers": "kafka:9092"},
        "topics": [
            {"name": "raw", "partitions": 4} | (raw or {}),
            {"name": "enriched", "partitions": 4} | (enriched or {}),
        ],
        "producers": [{"name": "devices", "to": "raw", "key": {"field": "device_id"}, "source": {"simulator": {}}}],
        "processors": [stage],
        "sinks": [{"name": "store", "from": "enriched", "destination": {"stdout": {}}}],
    }
    return Pipeline.model_validate({"metadata": {"name": "sensors"}, "spec": spec})


def planned(pipeline: Pipeline, world: dict[str, TopicState]) -> Plan:
    observed = {name: world.get(name) for name in names_of(pipeline)}
    return diff(wanted(pipeline, observed), observed)


def acted(world: dict[str, TopicState], action) -> dict[str, TopicState]:
    """The world after Kafka took the step; refuses what Kafka would refuse."""
    match action:
        case CreateTopic(name, partitions, factor, config):
            assert name not in world
            state = TopicState(name=name, partitions=partitions, replication_factor=factor, config=config)
        case AddPartitions(name, present, partitions):
            assert world[name].partitions == present < partitions
            state = replace(world[name], partitions=partitions)
        case AlterConfig(name, config):
            state = replace(world[name], config={**world[name].config, **config})
    return {**world, name: state}


def complete(pipeline: Pipeline) -> dict[str, TopicState]:
    """A world with everything that the Pipeline wants."""
    world: dict[str, TopicState] = {}
    for action in planned(pipeline, world).actions:
        world = acted(world, action)
    return world


def with_topic(world, name, **changes):
    return {**world, name: replace(world[name], **changes)}


def test_an_empty_kafka_gets_all_topics_the_declared_ones_first():
    plan = planned(pipeline(), {})

    assert [a.name for a in plan.actions] == ["raw", "enriched", POSITIONS, "raw.dlq", "enriched.dlq", CHANGELOG]
    assert all(isinstance(action, CreateTopic) for action in plan.actions)
    assert not plan.problems


def test_derived_topics_are_sized_for_their_purpose():
    by_name = {topic.name: topic for topic in wanted(pipeline(raw={"partitions": 6}), {})}

    assert (by_name[POSITIONS].partitions, by_name[POSITIONS].config["cleanup.policy"]) == (1, "compact")
    assert (by_name[CHANGELOG].partitions, by_name[CHANGELOG].config["cleanup.policy"]) == (6, "compact")
    assert (by_name["raw.dlq"].partitions, by_name["raw.dlq"].config["cleanup.policy"]) == (6, "delete")
    assert by_name["raw.dlq"].config["retention.ms"] == "1209600000"
    assert {"2"} == {by_name[name].config["min.insync.replicas"] for name in (POSITIONS, CHANGELOG, "raw.dlq")}


def test_dead_letters_have_room_for_their_headers():
    by_name = {topic.name: topic for topic in wanted(pipeline(raw={"config": {"max.message.bytes": "2000000"}}), {})}

    assert by_name["raw.dlq"].config["max.message.bytes"] == "2065536"


def test_a_declared_topic_that_takes_dead_letters_stays_as_declared():
    by_name = {topic.name: topic for topic in wanted(pipeline(dead_letters="enriched.dlq"), {})}

    assert "raw.dlq" not in by_name
    assert by_name["enriched.dlq"].partitions == 4


def test_stateless_stages_have_no_changelog():
    assert CHANGELOG not in names_of(pipeline(kind="stateless"))


def test_growing_and_configuring_are_steps():
    before = complete(pipeline(kind="stateless"))
    after = pipeline(kind="stateless", raw={"partitions": 8, "config": {"retention.ms": "1000"}})

    assert [
        AddPartitions("raw", 4, 8),
        AlterConfig("raw", {"retention.ms": "1000"}, {"retention.ms": None}),
        AddPartitions("raw.dlq", 4, 8),
    ] == list(planned(after, before).actions)


def test_steps_read_as_sentences():
    world = with_topic(complete(pipeline()), "raw", config={"retention.ms": "5", "other": "1"})
    config = {"retention.ms": "7"}

    (alter,) = planned(pipeline(raw={"config": config}), world).actions
    assert str(alter) == "set in topic raw: retention.ms from 5 to 7"
    create, *_ = planned(pipeline(raw={"config": config, "partitions": 1}), {}).actions
    assert str(create) == "create topic raw: 1 partition, replication factor 3, retention.ms=7 (declared)"
    assert str(AddPartitions("raw", 1, 2)) == "grow topic raw from 1 to 2 partitions"


@pytest.mark.parametrize(
    ("written", "in_force"),
    [("TRUE", "true"), (" 7 ", "7"), ("+7", "7"), ("007", "7"), ("compact, delete", "compact,delete"), ("-1", "-1")],
)
def test_the_same_value_written_otherwise_is_no_change(written, in_force):
    world = with_topic(complete(pipeline()), "raw", config={"key": in_force})

    assert Plan() == planned(pipeline(raw={"config": {"key": written}}), world)


def test_a_key_removed_from_the_pipeline_keeps_its_value():
    world = complete(pipeline(raw={"config": {"retention.ms": "1000"}}))

    assert Plan() == planned(pipeline(), world)


@pytest.mark.parametrize(
    ("asked", "change", "expected"),
    [
        (
            {"kind": "stateless"},
            {"name": "raw", "partitions": 6},
            (
                "topic raw has 6 partitions, the Pipeline asks for 4, and Kafka cannot take partitions away: "
                "set partitions: 6, or use a topic with another name"
            ),
        ),
        (
            {},
            {"name": "raw", "partitions": 2},
            (
                "topic raw has 2 partitions, the Pipeline asks for 4, which would move keys away from the state of enrich: "
                "keep partitions: 2, or write to a new topic of 4 partitions and let the stage read that"
            ),
        ),
        (
            {},
            {"name": CHANGELOG, "partitions": 2},
            (
                f"topic {CHANGELOG} has 2 partitions, the Pipeline asks for 4, as many as the input of enrich: its state "
                "would not match the keys: raise stateVersion of the transform to start with new state, or give the input "
                "its former size"
            ),
        ),
        (
            {},
            {"name": "raw", "replication_factor": 1},
            (
                "topic raw has replication factor 1, the Pipeline asks for 3, which Forebay does not change: reassign its "
                "partitions with kafka-reassign-partitions, or set replicationFactor: 1"
            ),
        ),
        (
            {},
            {"name": POSITIONS, "replication_factor": 1},
            (
                f"topic {POSITIONS} has replication factor 1, the Pipeline asks for 3, which Forebay does not change: "
                "reassign its partitions with kafka-reassign-partitions"
            ),
        ),
        (
            {"enriched": {"management": "External"}},
            {"name": "enriched", "partitions": 3},
            (
                "topic enriched is External and has 3 partitions, the Pipeline asks for 4 at least: let its owner add some, "
                "or set partitions: 3"
            ),
        ),
        (
            {"enriched": {"management": "External", "config": {"cleanup.policy": "delete"}}},
            {"name": "enriched", "config": {"cleanup.policy": "compact"}},
            (
                "topic enriched is External and has cleanup.policy=compact, the Pipeline asks for delete: let its owner "
                "change it, or remove cleanup.policy from the Pipeline"
            ),
        ),
    ],
)
def test_what_a_person_must_decide_is_a_problem_and_no_step(asked, change, expected):
    world = complete(pipeline())
    plan = planned(pipeline(**asked), with_topic(world, **change))

    assert expected in plan.problems
    assert change["name"] not in {action.name for action in plan.actions}


def test_growing_the_input_of_keyed_state_names_the_input_alone():
    plan = planned(pipeline(raw={"partitions": 8}), complete(pipeline()))

    assert len(plan.problems) == 1


def test_an_external_input_that_grew_is_a_problem_of_the_state():
    external = pipeline(raw={"management": "External", "partitions": None})
    world = with_topic(complete(pipeline()), "raw", partitions=8)

    (found,) = planned(external, world).problems
    assert found.startswith(f"topic {CHANGELOG} has 4 partitions, the Pipeline asks for 8")


def test_a_missing_external_topic_is_said_and_nothing_is_derived_from_it():
    plan = planned(pipeline(raw={"management": "External", "partitions": None}), {})

    assert plan.problems == ("topic raw is External and does not exist: create it, or make it `management: Managed`",)
    assert not {"raw", "raw.dlq", CHANGELOG} & {action.name for action in plan.actions}


def test_derived_topics_follow_an_external_topic_as_it_is():
    external = pipeline(raw={"management": "External", "partitions": None})
    world = {"raw": TopicState(name="raw", partitions=24, replication_factor=1)}
    created = {action.name: action for action in planned(external, world).actions}

    assert (created["raw.dlq"].partitions, created["raw.dlq"].replication_factor) == (24, 1)
    assert (created[CHANGELOG].partitions, created[CHANGELOG].replication_factor) == (24, 1)


def test_caps_lower_replication_to_the_brokers_and_say_so_once():
    topics, notes = capped(wanted(pipeline(raw={"config": {"min.insync.replicas": "2"}}), {}), 1)

    assert {1} == {topic.replication_factor for topic in topics}
    assert {"1"} == {topic.config.get("min.insync.replicas", "1") for topic in topics}
    assert notes == (
        "replicationFactor is lowered from 3 to 1: this Kafka has 1 broker",
        "min.insync.replicas is lowered from 2 to 1: this Kafka has 1 broker",
    )


def test_a_large_cluster_caps_nothing():
    topics = wanted(pipeline(), {})

    assert (topics, ()) == capped(topics, 3)


configs = st.dictionaries(st.sampled_from(["retention.ms", "segment.ms"]), st.sampled_from(["1000", "2000"]))
declared = st.fixed_dictionaries(
    {"partitions": st.integers(1, 4), "config": configs},
    optional={"management": st.sampled_from(["Managed", "External"]), "replicationFactor": st.just(3)},
)
pipelines = st.builds(
    pipeline,
    raw=declared,
    enriched=declared,
    kind=st.sampled_from(sorted(TRANSFORMS)),
    dead_letters=st.sampled_from([None, "failed", "enriched.dlq"]),
)
states = st.builds(
    lambda partitions, factor, config: {"partitions": partitions, "replication_factor": factor, "config": config},
    st.integers(1, 4),
    st.just(3),
    configs,
)
worlds = st.dictionaries(
    st.sampled_from(["raw", "enriched", "raw.dlq", "enriched.dlq", "failed", POSITIONS, CHANGELOG]), states
).map(lambda chosen: {name: TopicState(name=name, **state) for name, state in chosen.items()})


@settings(max_examples=200, deadline=None)
@given(asked=pipelines, world=worlds)
def test_a_plan_once_applied_leaves_nothing_to_do(asked, world):
    plan = planned(asked, world)
    for action in plan.actions:
        world = acted(world, action)

    assert Plan((), plan.problems) == planned(asked, world)


@settings(max_examples=200, deadline=None)
@given(asked=pipelines, world=worlds, data=st.data())
def test_a_plan_interrupted_anywhere_is_continued(asked, world, data):
    plan = planned(asked, world)
    finished = world
    for action in plan.actions:
        finished = acted(finished, action)
    for action in plan.actions[: data.draw(st.integers(0, len(plan.actions)))]:
        world = acted(world, action)
    for action in planned(asked, world).actions:
        world = acted(world, action)

    assert finished == world


@settings(max_examples=100, deadline=None)
@given(asked=pipelines, world=worlds)
def test_external_topics_are_never_touched_and_no_topic_shrinks(asked, world):
    external = {topic.name for topic in asked.spec.topics if topic.management == "External"}

    for action in planned(asked, world).actions:
        assert action.name not in external
        assert not isinstance(action, AddPartitions) or action.wanted > action.present


def test_purposes_are_told():
    assert {Purpose.DECLARED, Purpose.DEAD_LETTERS, Purpose.POSITIONS, Purpose.CHANGELOG} == {
        topic.purpose for topic in wanted(pipeline(), {})
    }

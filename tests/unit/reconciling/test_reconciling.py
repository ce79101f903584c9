"""The plan for one Pipeline: it comes to rest, it survives being cut short, and it leaves alone what is not its own."""

import copy
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_world import OWNER, PlannedWorld, decision, manifests, pipeline, settle

from forebay.pipeline.names import ADOPT_ANNOTATION, PAUSED_ANNOTATION, RELEASE_ANNOTATION
from forebay.pipeline.spec import Autoscaling
from forebay.planning import objects, topics
from forebay.planning.objects import ObjectKey
from forebay.planning.pods import PodState, Trouble
from forebay.planning.reconciling import (
    Apply,
    DeleteTopics,
    Hold,
    Release,
    RememberTopics,
    Remove,
    ReplacePod,
    Scale,
    farewell,
    plan,
)

ENRICH = ObjectKey("StatefulSet", "sensors-enrich")
FOREIGN_ID = "id-of-somebody-else"


def state(world: PlannedWorld) -> tuple:
    """What matters of a world at rest; Kafka's ids depend on the order of things."""
    sizes = {name: (each.partitions, dict(each.config)) for name, each in world.topics.items()}
    users = (set(world.passwords), world.acls, set(world.logins), world.identity.users)
    return sizes, world.live, set(world.identity.topics), world.identity.has_finalizer, users


variants = st.builds(
    pipeline,
    partitions=st.just(4),
    low=st.integers(1, 2),
    high=st.integers(2, 4),
    sink=st.booleans(),
    deletion=st.sampled_from(["Retain", "Delete"]),
    retention=st.sampled_from([None, "1000", "2000"]),
    users=st.sampled_from([None, "Managed"]),
)


@given(variants)
@settings(deadline=None)
def test_taking_a_plan_leaves_nothing_to_do(wanted):
    world = settle(PlannedWorld(wanted))

    assert plan(wanted, world.seen()).steps == ()
    assert len(world.topics) == len(topics.names_of(wanted))


@given(variants, variants, st.data())
@settings(deadline=None, max_examples=200)
def test_it_may_be_cut_short_after_any_step(before, after, data):
    """From any world that an earlier Pipeline left, dying after any step and planning again reaches the same end."""
    whole = settle(PlannedWorld(before))
    broken = copy.deepcopy(whole)
    whole.pipeline = broken.pipeline = after

    settle(whole)
    for _ in range(3):
        steps = plan(after, broken.seen()).steps
        for step in steps[: data.draw(st.integers(0, len(steps)))]:
            broken.take(step)
    settle(broken)

    assert state(whole) == state(broken)


@given(variants)
@settings(deadline=None)
def test_topics_come_before_the_stages_that_read_them(wanted):
    steps = plan(wanted, PlannedWorld(wanted).seen()).steps
    kinds = [isinstance(step, topics.CreateTopic) for step in steps]

    first_apply = next(at for at, step in enumerate(steps) if isinstance(step, Apply))
    assert not any(kinds[first_apply:])


def test_what_pods_need_is_applied_before_the_pods():
    applied = [step.manifest.key.kind for step in plan(pipeline(), PlannedWorld(pipeline()).seen()).steps
               if isinstance(step, Apply)]  # fmt: skip

    assert applied == ["ConfigMap", "StatefulSet", "StatefulSet", "Deployment"]


def test_replicas_survive_switching_autoscaling_on_and_off():
    """Off at 4, on, off: nothing ever sets fewer."""
    world = settle(PlannedWorld(pipeline(low=4, high=4)))
    key = ObjectKey("StatefulSet", "sensors-enrich")
    for low in (2, 4):
        world.pipeline = pipeline(low=low, high=4)
        world.decided = {"enrich": decision(bounds(world), replicas=4)}
        settle(world)

        assert world.live[key]["spec"]["replicas"] == 4
        assert not any(isinstance(step, Scale) and step.verdict.replicas < 4 for step in world.taken)


def bounds(world: PlannedWorld) -> Autoscaling:
    return world.pipeline.spec.processors[0].autoscaling


def scaled(world: PlannedWorld, **decided) -> list[int]:
    """What the processor is scaled to by a plan after this decision, by the bounds of before where none are given."""
    world.decided = {"enrich": decision(**{"verdict_on": bounds(world)} | decided)}
    return [step.verdict.replicas for step in plan(world.pipeline, world.seen()).steps if isinstance(step, Scale)]


def test_a_decision_is_carried_out_once():
    world = settle(PlannedWorld(pipeline(low=1, high=4)))
    decided = {"replicas": 1, "wanted": 3, "reason": "FallingBehind"}
    assert scaled(world, **decided) == [3]

    world.live[ENRICH]["spec"]["replicas"] = 3
    assert scaled(world, **decided) == []


def test_a_decision_on_another_number_of_replicas_than_there_is_waits_for_the_next_look():
    world = settle(PlannedWorld(pipeline(low=1, high=4)))
    world.live[ENRICH]["spec"]["replicas"] = 2  # somebody's own kubectl scale

    assert scaled(world, replicas=1, wanted=3, reason="FallingBehind") == []


def test_a_decision_by_bounds_that_no_longer_hold_waits_for_the_next_look():
    world = settle(PlannedWorld(pipeline(low=1, high=4)))
    before = bounds(world)
    world.pipeline = pipeline(low=1, high=2)
    settle(world)

    assert scaled(world, verdict_on=before, replicas=1, wanted=4, reason="FallingBehind") == []


def test_without_a_measurement_replicas_stay_as_they_are():
    world = settle(PlannedWorld(pipeline(low=1, high=4)))
    world.live[ENRICH]["spec"]["replicas"] = 3
    decided = plan(world.pipeline, world.seen())

    assert decided.steps == ()
    assert (decided.verdicts["enrich"].replicas, decided.verdicts["enrich"].reason) == (3, "MeasurementMissing")


def test_a_stage_that_may_scale_to_zero_is_not_pinned_by_equal_bounds():
    world = PlannedWorld(pipeline(low=1, high=1, to_zero=True))
    settle(world)

    assert scaled(world, replicas=1, wanted=0, reason="WentIdle") == [0]


def test_manifests_never_carry_replicas():
    rendered = {"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replicas": 3}}
    (manifest,) = objects.prepare([rendered], OWNER)

    assert "replicas" not in manifest.body["spec"]


def test_a_changed_object_is_put_right_and_its_replicas_stay():
    world = settle(PlannedWorld(pipeline(low=2, high=4)))
    key = ObjectKey("StatefulSet", "sensors-enrich")
    world.live[key]["spec"]["template"]["metadata"]["labels"] = {"changed": "by hand"}
    (step,) = plan(world.pipeline, world.seen()).steps

    assert str(step) == "apply StatefulSet sensors-enrich (somebody changed it)"
    world.take(step)
    assert world.live[key]["spec"]["replicas"] == 2


def test_what_the_server_added_is_no_change():
    """Defaults, and a list that it wrote in its own way, are as they were right after applying."""
    world = settle(PlannedWorld(pipeline()))
    key = ObjectKey("StatefulSet", "sensors-enrich")
    manifest = next(m for m in manifests(world.pipeline) if m.key == key)
    world.live[key]["spec"]["podManagementPolicy"] = "OrderedReady"
    world.live[key]["spec"]["template"]["metadata"]["labels"]["forebay.dev/stage"] = "as the server writes it"
    seen = world.seen()

    assert plan(world.pipeline, seen).steps
    remembered = {key: objects.fingerprint(manifest.body, world.live[key])}
    assert plan(world.pipeline, replace(seen, remembered=remembered)).steps == ()


def test_objects_of_a_stage_that_is_gone_are_removed_after_the_rest_is_applied():
    world = settle(PlannedWorld(pipeline()))
    world.pipeline = pipeline(sink=False)
    steps = plan(world.pipeline, world.seen()).steps

    assert [str(step) for step in steps if isinstance(step, Remove)] == ["delete Deployment sensors-store"]
    assert isinstance(steps[-1], Remove)


def test_objects_that_others_made_under_our_label_stay():
    world = settle(PlannedWorld(pipeline()))
    body = {"kind": "ConfigMap", "metadata": {"name": "mine", "labels": {"forebay.dev/pipeline": "sensors"}}}
    world.live[ObjectKey("ConfigMap", "mine")] = body

    assert plan(world.pipeline, world.seen()).steps == ()


def test_paused_changes_nothing():
    world = PlannedWorld(pipeline())
    world.identity = replace(world.identity, annotations={PAUSED_ANNOTATION: "true"})

    assert plan(world.pipeline, world.seen()).steps == ()


def test_nothing_is_deployed_scaled_or_removed_while_kafka_does_not_answer():
    world = settle(PlannedWorld(pipeline(low=1, high=4)))
    world.kafka = Trouble("KafkaUnreachable", "no answer")
    world.pipeline = pipeline(low=3, high=4, sink=False)
    decided = plan(world.pipeline, world.seen())

    assert decided.steps == ()
    assert {verdict.reason for verdict in decided.verdicts.values()} == {"Frozen"}


def test_the_newer_of_two_pipelines_gets_no_step():
    world = PlannedWorld(pipeline())
    world.claims = {"raw": "default/older"}
    decided = plan(world.pipeline, world.seen())

    assert decided.steps == ()
    assert decided.conflicts == (
        (
            "topic raw is managed by the older Pipeline default/older: declare it here with management: External, or use a "
            "topic with another name"
        ),
    )


def test_dead_letters_may_be_shared():
    """Two Pipelines that read one External topic have the same dead letters: the older one looks after the topic."""
    world = settle(PlannedWorld(pipeline()))
    world.claims = {"raw.dlq": "default/older"}
    world.topics["raw.dlq"] = replace(world.topics["raw.dlq"], config={"retention.ms": "as the older one wants it"})
    settle(world)

    assert world.topics["raw.dlq"].config == {"retention.ms": "as the older one wants it"}


@pytest.mark.parametrize(("retention", "complaints"), [(None, 0), ("1000", 1)])
def test_a_topic_that_was_there_before_is_taken_over_only_as_it_is(retention, complaints):
    world = settle(PlannedWorld(pipeline()))
    world.identity = replace(world.identity, topics={})
    world.topics["raw"] = replace(world.topics["raw"], topic_id=FOREIGN_ID)
    world.pipeline = pipeline(retention=retention)
    decided = plan(world.pipeline, world.seen())

    assert len(decided.topic_problems) == complaints
    if complaints:
        assert decided.topic_problems[0].startswith("topic raw existed before this Pipeline and differs")
        assert not decided.steps
        world.identity = replace(world.identity, annotations={ADOPT_ANNOTATION: "true"})
    settle(world)
    assert world.identity.topics["raw"] == FOREIGN_ID


def test_a_topic_that_was_made_anew_is_no_longer_ours():
    world = settle(PlannedWorld(pipeline(retention="1000")))
    ours = world.identity.topics["raw"]
    world.topics["raw"] = replace(world.topics["raw"], topic_id=FOREIGN_ID, config={"retention.ms": "2000"})
    decided = plan(world.pipeline, world.seen())

    assert ours != FOREIGN_ID
    assert len(decided.topic_problems) == 1


def test_a_topic_that_is_no_longer_asked_for_stays_in_the_ledger():
    """Nothing deletes it while the Pipeline lives; with deletionPolicy Delete it goes when the Pipeline goes."""
    world = settle(PlannedWorld(pipeline()))
    world.pipeline = pipeline(sink=False)
    settle(world)

    assert "enriched.dlq" in world.topics
    assert world.identity.topics.keys() == world.topics.keys()


def test_a_change_of_the_pipeline_is_told_from_a_change_by_hand():
    world = settle(PlannedWorld(pipeline()))
    world.pipeline = pipeline(retention="1000")
    reasons = {step.why for step in plan(world.pipeline, world.seen()).steps if isinstance(step, Apply)}

    assert reasons == {"changed"}


def test_the_finalizer_is_held_only_while_there_is_something_to_clean_up():
    world = settle(PlannedWorld(pipeline(deletion="Retain")))
    assert not world.identity.has_finalizer

    world.pipeline = pipeline(deletion="Delete")
    assert isinstance(plan(world.pipeline, world.seen()).steps[0], Hold)
    settle(world)
    assert world.identity.has_finalizer

    world.pipeline = pipeline(deletion="Retain")
    settle(world)
    assert not world.identity.has_finalizer


def test_it_is_held_before_anything_is_made():
    steps = plan(pipeline(deletion="Delete"), PlannedWorld(pipeline(deletion="Delete")).seen()).steps

    assert isinstance(steps[0], Hold)


def leaving(world: PlannedWorld, seconds: float = 1.0, **annotations) -> PlannedWorld:
    world.identity = replace(world.identity, deleted_for_s=seconds, annotations=annotations)
    return world


def pod(stage="enrich", **changes) -> PodState:
    plain = PodState(f"sensors-{stage}-0", stage, is_ready=True, is_leaving=False, revision="old", trouble=None)
    return replace(plain, **changes)


def test_deletion_removes_stages_then_topics_then_lets_go():
    world = leaving(settle(PlannedWorld(pipeline(deletion="Delete"))))
    world.pods = [pod()]
    removed = farewell(world.pipeline, world.seen()).steps
    for step in removed:
        world.take(step)
    waiting = farewell(world.pipeline, world.seen())
    world.pods = []
    rest = farewell(world.pipeline, world.seen()).steps

    assert {type(step) for step in removed} == {Remove}
    assert not world.live
    assert (waiting.steps, waiting.waits_for) == ((), "pods have not ended: sensors-enrich-0")
    assert [type(step) for step in rest] == [DeleteTopics, Release]
    for step in rest:
        world.take(step)
    assert (world.topics, world.identity.has_finalizer) == ({}, False)


def test_deletion_spares_topics_that_were_made_anew_by_somebody_else():
    world = leaving(settle(PlannedWorld(pipeline(deletion="Delete"))))
    world.live = {}
    world.topics["raw"] = replace(world.topics["raw"], topic_id=FOREIGN_ID)
    (doomed, _) = farewell(world.pipeline, world.seen()).steps

    assert "raw" not in doomed.names
    assert "enriched" in doomed.names


@pytest.mark.parametrize(("seconds", "lets_go"), [(10.0, False), (601.0, True)])
def test_deletion_ends_though_kafka_never_answers(seconds, lets_go):
    world = leaving(settle(PlannedWorld(pipeline(deletion="Delete"))), seconds)
    world.live = {}
    world.kafka = Trouble("KafkaUnreachable", "no answer")
    decided = farewell(world.pipeline, world.seen())

    assert decided.waits_for == (None if lets_go else "no answer")
    if lets_go:
        (release,) = decided.steps
        assert release.topics == tuple(sorted(world.identity.topics))
        assert "no answer" in str(release)


def test_an_annotation_lets_it_go_at_once():
    world = leaving(settle(PlannedWorld(pipeline(deletion="Delete"))), **{RELEASE_ANNOTATION: "true"})
    (release,) = farewell(world.pipeline, world.seen()).steps

    assert isinstance(release, Release)
    assert release.topics


def test_without_the_finalizer_nothing_is_left_to_do():
    assert farewell(pipeline(), leaving(settle(PlannedWorld(pipeline()))).seen()).steps == ()


def test_a_broken_pod_of_an_old_revision_is_replaced():
    world = settle(PlannedWorld(pipeline()))
    body = world.live[ObjectKey("StatefulSet", "sensors-enrich")]
    body["metadata"]["generation"] = 2
    body["status"] = {"observedGeneration": 2, "updateRevision": "new", "currentRevision": "old"}
    crashing = Trouble("CrashLoopBackOff", "exit code 1")
    world.pods = [
        pod(is_ready=False, trouble=crashing),
        pod(name="sensors-enrich-1"),  # works: the controller replaces it when its turn comes
        pod(name="sensors-enrich-2", is_ready=False, trouble=crashing, revision="new"),
        pod("devices", is_ready=False, trouble=crashing),
    ]

    assert plan(world.pipeline, world.seen()).steps == (ReplacePod("sensors-enrich-0", crashing),)


def test_with_external_workloads_it_deploys_nothing_and_scales_what_may_vary():
    wanted = pipeline(low=1, high=4, workloads="External")
    world = settle(PlannedWorld(wanted))
    foreign = {"StatefulSet": "enrich", "Deployment": "store"}
    world.live = {
        ObjectKey(kind, f"sensors-{stage}"): {
            "kind": kind,
            "metadata": {"name": f"sensors-{stage}", "labels": {"forebay.dev/stage": stage}},
            "spec": {"replicas": 1 if stage == "enrich" else 7},
        }
        for kind, stage in foreign.items()
    }
    decided = {"enrich": decision(bounds(world), replicas=1, wanted=2, reason="FallingBehind")}
    seen = replace(world.seen(), decided=decided)
    (step,) = plan(wanted, seen).steps

    assert (step.key.name, step.verdict.replicas) == ("sensors-enrich", 2)


def test_the_ledger_is_written_before_anything_is_applied():
    world = settle(PlannedWorld(pipeline()))
    world.identity = replace(world.identity, topics={})
    world.live = {}
    kinds = [type(step) for step in plan(world.pipeline, world.seen()).steps]

    assert kinds[0] is RememberTopics
    assert Apply in kinds

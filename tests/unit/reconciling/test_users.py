"""Managed users in the plan for one Pipeline: there before the stages, gone after them, and never a word of a password."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned_world import NOW, Login, PlannedWorld, pipeline, settle

from forebay.pipeline.names import ADOPT_ANNOTATION, RELEASE_ANNOTATION, ROTATE_ANNOTATION
from forebay.planning import reporting
from forebay.planning.credentials import users
from forebay.planning.credentials.checks import Problem
from forebay.planning.credentials.rotation import KEEP_S, Issue, Issued, RemoveLogin
from forebay.planning.credentials.users import Acl, AddAcls, DeleteUser, RememberUsers, RemoveAcls
from forebay.planning.objects import ObjectKey
from forebay.planning.pods import PodState, Trouble
from forebay.planning.reconciling import Apply, DeleteTopics, Hold, Release, Remove, farewell, plan
from forebay.planning.reporting import NOT_PERMITTED, Condition

STAGES = ("devices", "enrich", "store")
SECRETS = tuple(f"sensors-{stage}-kafka-user" for stage in STAGES)
FIRST = frozenset(f"default.sensors.{stage}.a" for stage in STAGES)
SECOND = frozenset(f"default.sensors.{stage}.b" for stage in STAGES)
USER_STEPS = (RememberUsers, AddAcls, Issue, DeleteUser, RemoveAcls, RemoveLogin)


def managed(**given) -> PlannedWorld:
    return PlannedWorld(pipeline(users="Managed", **given))


def pod(stage: str, number: int = 0, **changes) -> PodState:
    plain = PodState(f"sensors-{stage}-{number}", stage, is_ready=True, is_leaving=False, revision="r", trouble=None)
    return replace(plain, **changes)


def running(**given) -> PlannedWorld:
    """Everything is made, and one pod of each stage uses what it was given."""
    world = settle(managed(**given))
    world.pods = [pod(stage) for stage in STAGES]
    world.says = {each.name: 1 for each in world.pods}
    return world


def rotate(world: PlannedWorld, word: str = "today") -> PlannedWorld:
    world.identity = replace(world.identity, annotations={**world.identity.annotations, ROTATE_ANNOTATION: word})
    return world


def steps(world: PlannedWorld) -> list[str]:
    return [type(step).__name__ for step in plan(world.pipeline, world.seen()).steps]


def act(world: PlannedWorld) -> None:
    for step in plan(world.pipeline, world.seen()).steps:
        world.take(step)


def said(world: PlannedWorld, **changes) -> Condition:
    seen = replace(world.seen(), **changes)
    decided = plan(world.pipeline, seen)
    report = reporting.report(world.pipeline, seen, decided, generation=1, figures={}, now=NOW)
    return next(found for found in report.conditions if found.type == "CredentialsReady")


def test_users_are_made_after_the_finalizer_and_before_the_stages():
    world = managed()
    kinds = [type(step) for step in plan(world.pipeline, world.seen()).steps]

    assert kinds[0] is Hold
    assert [kind for kind in kinds if kind in USER_STEPS] == [RememberUsers, AddAcls, Issue, Issue, Issue]
    assert kinds.index(Apply) > max(at for at, kind in enumerate(kinds) if kind is Issue)


def test_applying_a_plan_leaves_nothing_to_do():
    world = settle(managed())

    assert plan(world.pipeline, world.seen()).steps == ()
    assert world.passwords.keys() == FIRST
    assert world.identity.users == FIRST | SECOND
    assert tuple(sorted(world.logins)) == SECRETS
    assert world.identity.has_finalizer


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=6), st.sampled_from(["Managed", "External"]))
@settings(deadline=None)
def test_it_may_be_cut_short_after_any_step_and_between_password_and_secret(cuts, workloads):
    """Whatever is done twice for it, every stage ends with one user, and a Secret with that user's password."""
    world = managed(workloads=workloads)
    for count, is_torn in cuts:
        taken = plan(world.pipeline, world.seen()).steps[:count]
        for place, step in enumerate(taken):
            world.take(step, only_half=is_torn and place == len(taken) - 1)
    for _ in range(8):
        act(world)
        world.now_s += KEEP_S

    assert plan(world.pipeline, world.seen()).steps == ()
    assert {login.user: login.password for login in world.logins.values()} == world.passwords
    assert len(world.passwords) == len(STAGES)


def test_a_rotation_waits_for_every_pod_and_deletes_the_former_user():
    world = rotate(running())
    assert steps(world) == ["Issue"] * 3
    act(world)
    waiting = plan(world.pipeline, world.seen())
    assert waiting.steps == ()
    assert waiting.rotating["enrich"] == "the former user is kept until these pods use generation 2: sensors-enrich-0"

    world.says = {each.name: 2 for each in world.pods}
    waiting = plan(world.pipeline, world.seen())
    assert (waiting.steps, waiting.due_s) == ((), NOW + KEEP_S)
    world.now_s += KEEP_S
    assert steps(world) == ["DeleteUser"] * 3
    act(world)
    assert world.passwords.keys() == SECOND
    assert plan(world.pipeline, world.seen()).steps == ()


@pytest.mark.parametrize("silent", [None, 1])
def test_a_pod_that_leaves_keeps_the_former_user_too(silent):
    world = rotate(running())
    world.pods.append(pod("enrich", 1, is_leaving=True))
    act(world)
    world.now_s += 10 * KEEP_S
    world.says = {each.name: 2 for each in world.pods} | {"sensors-enrich-1": silent}

    assert steps(world) == []
    world.pods.pop()
    assert steps(world) == ["DeleteUser"] * 3


def test_pods_are_asked_only_while_something_waits_for_them():
    world = running()
    assert world.seen().logins.pods == {}
    act(rotate(world))
    assert world.seen().logins.pods.keys() == set(STAGES)


def test_users_are_replaced_when_they_are_old():
    world = running(rotate_every="12h")
    due_s = plan(world.pipeline, world.seen()).due_s

    assert due_s == NOW + 12 * 3_600
    world.now_s = due_s
    assert steps(world) == ["Issue"] * 3


UNSETTLED = {
    "a pod of the stage is there": lambda world: world.pods.append(pod("store")),
    "a pod is leaving": lambda world: world.pods.append(pod("enrich", is_leaving=True)),
    "an old revision": lambda world: world.live[ObjectKey("StatefulSet", "sensors-enrich")].update(
        status={"replicas": 2, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b"}
    ),
    "a change that its controller has not seen": lambda world: world.live[ObjectKey("StatefulSet", "sensors-enrich")][
        "metadata"
    ].update(generation=2),
}


@pytest.mark.parametrize("reason", UNSETTLED)
def test_what_a_former_stage_had_goes_when_all_pods_are_as_asked(reason):
    world = settle(managed())
    world.pipeline = pipeline(users="Managed", sink=False)
    first = plan(world.pipeline, world.seen()).steps
    assert not any(isinstance(step, USER_STEPS) for step in first)
    assert any(isinstance(step, Remove) for step in first)
    act(world)
    body = ObjectKey("StatefulSet", "sensors-enrich")
    before = (list(world.pods), world.live[body].get("status", {}), world.live[body]["metadata"].get("generation", 0))
    UNSETTLED[reason](world)
    assert steps(world) == []

    world.pods, world.live[body]["status"], world.live[body]["metadata"]["generation"] = before
    assert steps(world) == ["DeleteUser", "RemoveAcls", "RemoveLogin"]
    settle(world)
    assert tuple(sorted(world.logins)) == SECRETS[:2]
    assert not any(user.endswith(("store.a", "store.b")) for user in world.identity.users)


def test_a_right_too_many_goes_and_one_that_lacks_comes_back():
    world = running()
    strange = Acl("default.sensors.enrich.a", "READ", "TOPIC", "of-somebody-else")
    foreign = Acl("somebody", "READ", "TOPIC", "raw")
    missing = next(iter(world.acls))
    world.acls = {*world.acls, strange, foreign} - {missing}
    settle(world)

    assert strange not in world.acls
    assert {missing, foreign} <= world.acls


def test_a_pipeline_that_wants_no_managed_users_any_more_has_none_left():
    world = settle(managed())
    world.pipeline = pipeline()
    act(world)
    assert world.passwords.keys() == FIRST, "pods may still use them"
    settle(world)

    assert (world.passwords, world.acls, world.logins, world.identity.users) == ({}, set(), {}, frozenset())
    assert not world.identity.has_finalizer


def test_users_of_somebody_else_are_not_touched_and_stages_left_alone():
    world = managed()
    world.passwords = {"default.sensors.enrich.a": "canary-of-somebody"}
    decided = plan(world.pipeline, world.seen())
    settle(world)

    assert not any(isinstance(step, (*USER_STEPS, Apply)) for step in decided.steps)
    assert "did not make" in decided.login_problems[0]
    assert said(world).reason == "UsersDiffer"
    assert world.passwords == {"default.sensors.enrich.a": "canary-of-somebody"}
    world.identity = replace(world.identity, annotations={ADOPT_ANNOTATION: "true"})
    settle(world)
    assert world.passwords.keys() == FIRST | {"default.sensors.enrich.b"}
    world.now_s += KEEP_S
    settle(world)
    assert "default.sensors.enrich.a" not in world.passwords


def test_a_secret_of_somebody_else_is_not_overwritten_unless_that_is_asked_for():
    world = managed()
    own = Login("enrich", "somebody", "canary-of-somebody", Issued(7, 0.0), is_ours=False)
    world.logins = {"sensors-enrich-kafka-user": own}
    settle(world)

    assert world.logins == {"sensors-enrich-kafka-user": own}
    assert "Secret sensors-enrich-kafka-user was not made by this Pipeline" in said(world).message
    world.identity = replace(world.identity, annotations={ADOPT_ANNOTATION: "true"})
    settle(world)
    assert world.logins["sensors-enrich-kafka-user"].is_ours
    assert tuple(sorted(world.logins)) == SECRETS


def test_nothing_is_believed_of_a_secret_of_somebody_else():
    """It may say what it likes: whoever takes it over makes another user."""
    world = running()
    world.logins["sensors-enrich-kafka-user"] = replace(world.logins["sensors-enrich-kafka-user"], is_ours=False)
    world.identity = replace(world.identity, annotations={ADOPT_ANNOTATION: "true"})

    assert steps(world) == ["Issue"]
    act(world)
    assert world.logins["sensors-enrich-kafka-user"].is_ours


def test_a_secret_of_somebody_else_stays_when_its_stage_is_gone():
    world = settle(managed())
    world.logins["sensors-store-kafka-user"] = replace(world.logins["sensors-store-kafka-user"], is_ours=False)
    world.pipeline = pipeline(users="Managed", sink=False)
    settle(world)

    assert "sensors-store-kafka-user" in world.logins


def test_a_secret_that_is_gone_comes_back():
    world = running()
    del world.logins["sensors-enrich-kafka-user"]
    act(world)

    assert world.logins["sensors-enrich-kafka-user"].issued.generation == 2


def test_where_users_cannot_be_seen_stages_stay_as_they_are_and_the_reason_is_told():
    world = running()
    world.pipeline = pipeline(users="Managed", retention="1000")
    forbidden = Trouble(NOT_PERMITTED, users.not_permitted(world.pipeline))
    decided = plan(world.pipeline, replace(world.seen(), logins=forbidden))
    found = said(world, logins=forbidden)

    assert not any(isinstance(step, (*USER_STEPS, Apply)) for step in decided.steps)
    assert (found.status, found.reason) == ("False", NOT_PERMITTED)
    assert "kafka-acls" in found.message


def test_where_users_may_not_be_made_the_rest_is_done_and_it_is_told():
    world = managed()
    world.makes_users = False
    settle(world)
    unmade = tuple(Problem(secret=name, wrong="does not exist", cure="create it") for name in SECRETS)

    assert world.live
    assert not world.identity.has_finalizer
    assert said(world, secrets=unmade).reason == "UsersNotManaged"
    assert "managedUsers of charts/operator" in said(world, secrets=unmade).message


def test_the_first_users_are_told_and_later_ones_do_not_make_it_unready():
    world = managed()
    unmade = tuple(Problem(secret=name, wrong="does not exist", cure="create it") for name in SECRETS)
    found = said(world, secrets=unmade)
    assert (found.status, found.reason) == ("False", "Changing")

    world = rotate(running())
    assert said(world).status == "True"
    act(world)
    assert said(world).status == "True"
    assert "devices: the former user is kept until these pods use generation 2" in said(world).message


def test_with_external_workloads_users_are_made_just_so():
    world = settle(managed(workloads="External"))

    assert world.passwords.keys() == FIRST
    assert world.live == {}
    assert world.identity.has_finalizer
    act(rotate(world))
    world.now_s += KEEP_S
    assert steps(world) == ["DeleteUser"] * 3


def leaving(world: PlannedWorld, seconds: float = 1.0, **annotations) -> PlannedWorld:
    world.identity = replace(world.identity, deleted_for_s=seconds, annotations=annotations)
    return world


@pytest.mark.parametrize("deletion", ["Retain", "Delete"])
def test_deletion_removes_stages_then_users_and_keeps_topics_that_are_to_be_kept(deletion):
    world = running(deletion=deletion)
    world.passwords["somebody"] = "canary"
    before = dict(world.topics)
    leaving(world)
    for step in farewell(world.pipeline, world.seen()).steps:
        assert isinstance(step, Remove)
        world.take(step)
    assert farewell(world.pipeline, world.seen()).waits_for.startswith("pods have not ended")
    assert world.passwords.keys() == FIRST | {"somebody"}
    world.pods = []
    rest = farewell(world.pipeline, world.seen()).steps
    for step in rest:
        world.take(step)

    topics = [DeleteTopics] if deletion == "Delete" else []
    assert [type(step) for step in rest] == [DeleteUser, DeleteUser, DeleteUser, RemoveAcls, *topics, Release]
    assert (world.passwords, world.acls) == ({"somebody": "canary"}, set())
    assert world.topics == ({} if topics else before)
    assert not world.identity.has_finalizer


def test_deletion_that_is_cut_short_goes_on():
    world = running()
    leaving(world).live, world.pods = {}, []
    world.take(farewell(world.pipeline, world.seen()).steps[0])
    for step in farewell(world.pipeline, world.seen()).steps:
        world.take(step)

    assert (world.passwords, world.acls, world.identity.has_finalizer) == ({}, set(), False)


def test_pods_that_somebody_else_deployed_keep_their_users():
    world = settle(managed(workloads="External"))
    world.live = {
        ObjectKey("Deployment", "sensors-store"): {
            "kind": "Deployment",
            "metadata": {"name": "sensors-store", "labels": {"forebay.dev/stage": "store"}},
            "spec": {"replicas": 1},
        }
    }
    world.pods = [pod("store")]
    leaving(world)

    assert farewell(world.pipeline, world.seen()).waits_for == "pods have not ended: sensors-store-0"


@pytest.mark.parametrize("how", ["deadline", "annotation"])
def test_users_that_are_left_behind_are_named(how):
    world = running()
    world.kafka = Trouble("KafkaUnreachable", "no answer")
    if how == "deadline":
        leaving(world, 601.0).live, world.pods = {}, []
    else:
        leaving(world, **{RELEASE_ANNOTATION: "true"})
    (release,) = farewell(world.pipeline, world.seen()).steps

    assert release.users == tuple(sorted(FIRST | SECOND))
    assert release.topics == (), "they are to be kept"
    assert "leaving users default.sensors.devices.a" in str(release)


def test_the_finalizer_stays_where_users_were_made_before_they_could_not_be():
    world = running()
    world.makes_users = False

    assert plan(world.pipeline, world.seen()).steps == ()
    leaving(world).live, world.pods = {}, []
    assert DeleteUser in [type(step) for step in farewell(world.pipeline, world.seen()).steps]


def test_no_password_is_ever_said():
    """Neither by a step, of which logs and Events are made, nor in the status."""
    world = rotate(running(deletion="Delete"))
    act(world)
    seen = world.seen()
    decided = plan(world.pipeline, seen)
    report = reporting.report(world.pipeline, seen, decided, generation=1, figures={}, now=NOW)
    texts = [*map(str, world.taken), *map(repr, world.taken), repr(report), repr(seen), repr(decided)]

    assert all("canary" in password for password in world.passwords.values())
    assert not any("canary" in text for text in texts)


def test_what_is_recorded_is_read_back():
    status = reporting.users_patch(FIRST)["status"]

    assert reporting.users_recorded(status) == FIRST
    assert reporting.users_recorded({}) == frozenset()


def test_the_message_of_a_condition_is_no_longer_than_kubernetes_takes():
    report = reporting.Report(generation=1, conditions=(Condition("Ready", "False", "X", "x" * 40_000),))
    patch = reporting.status_patch({}, report, now="now", written_s=0)

    assert len(patch["status"]["conditions"][0]["message"]) <= 32_768

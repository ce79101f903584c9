"""Rotation of managed users: the way in words, and that every way ends well, cut short anywhere and planned again."""

import copy
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay.pipeline import names
from forebay.pipeline.spec import Pipeline
from forebay.planning.credentials import rotation, users
from forebay.planning.credentials.rotation import KEEP_S, Issue, Issued, Plan, Seen, StageSeen
from forebay.planning.credentials.users import Acl, AddAcls, DeleteUser, Present, RememberUsers, RemoveAcls

DAY_S = 86_400.0
STAGES = ("devices", "enrich")


def pipeline(rotate_every="Never") -> Pipeline:
    return Pipeline.model_validate(
        {
            "metadata": {"name": "sensors", "namespace": "shop"},
            "spec": {
                "kafka": {
                    "bootstrapServers": "kafka:9093",
                    "tls": {},
                    "sasl": {"users": "Managed", "rotateEvery": rotate_every},
                    "adminSecretRef": {"name": "admin"},
                },
                "topics": [{"name": "raw", "partitions": 2}, {"name": "out", "partitions": 2}],
                "producers": [{"name": "devices", "to": "raw", "source": {"simulator": {}}}],
                "processors": [
                    {
                        "name": "enrich",
                        "from": "raw",
                        "to": "out",
                        "transforms": [{"name": "f", "python": {"entrypoint": "a:b"}}],
                    }
                ],
            },
        }
    )


@dataclass
class Pod:
    """Logs in with what it was given last; says its generation once it runs."""

    user: str
    password: int
    generation: int
    is_heard: bool = True
    former: frozenset[str] = frozenset()
    """Users that it has connections of."""


@dataclass
class World:
    """Kafka, Secrets, pods. Passwords are numbers, so that two of them differ."""

    pipeline: Pipeline = field(default_factory=pipeline)
    passwords: dict[str, int] = field(default_factory=dict)
    acls: set[Acl] = field(default_factory=set)
    secrets: dict[str, tuple[Issued, str, int]] = field(default_factory=dict)
    former: dict[str, tuple[Issued, str, int]] = field(default_factory=dict)
    """What the Secrets were before, which a kubelet may remember for a while."""
    pods: dict[str, dict[str, Pod]] = field(default_factory=lambda: {name: {} for name in STAGES})
    recorded: frozenset[str] = frozenset()
    now_s: float = 1_000_000.0
    asked: str = ""
    is_settled: bool = True
    issued: int = 0

    def stage(self, name: str):
        return next(stage for stage in self.pipeline.spec.stages if stage.name == name)

    def seen(self) -> Seen:
        asked = users.names_of(self.pipeline, self.recorded)
        return Seen(
            present=Present(
                frozenset(self.passwords.keys() & asked), frozenset(acl for acl in self.acls if acl.user in asked)
            ),
            recorded=self.recorded,
            stages={
                name: StageSeen(
                    issued=self.secrets[name][0] if name in self.secrets else None,
                    pods={pod: each.generation if each.is_heard else None for pod, each in self.pods[name].items()},
                )
                for name in STAGES
            },
            now_s=self.now_s,
            asked=self.asked,
            is_settled=self.is_settled,
        )

    def plan(self) -> Plan:
        return rotation.plan(self.pipeline, self.seen())

    def take(self, step, *, only_half: bool = False) -> None:
        match step:
            case RememberUsers(recorded):
                self.recorded = recorded
            case AddAcls(acls):
                self.acls.update(acls)
            case RemoveAcls(acls):
                self.acls.difference_update(acls)
            case DeleteUser(user):
                assert user in self.recorded
                del self.passwords[user]
            case Issue(stage, user, generation, asked):
                assert user in self.recorded, "made before it was recorded"
                self.issued += 1
                self.passwords[user] = self.issued
                if not only_half:
                    issued = Issued(generation, self.now_s, asked)
                    if stage in self.secrets:
                        self.former[stage] = self.secrets[stage]
                    self.secrets[stage] = (issued, user, self.issued)
            case _:
                raise AssertionError(step)

    def start(self, stage: str, pod: str) -> None:
        """A pod mounts the Secret; without one it waits for it."""
        if stage in self.secrets:
            issued, user, password = self.secrets[stage]
            self.pods[stage][pod] = Pod(user, password, issued.generation, is_heard=False)

    def start_with_the_former_secret(self, stage: str, pod: str) -> None:
        if stage in self.former and self.now_s < self.secrets[stage][0].at_s + KEEP_S:
            issued, user, password = self.former[stage]
            self.pods[stage][pod] = Pod(user, password, issued.generation, is_heard=False)

    def refresh(self, stage: str, pod: str) -> None:
        """The kubelet brings the Secret as it is now, and the pod takes it."""
        before = self.pods[stage][pod]
        self.start(stage, pod)
        self.pods[stage][pod].former = before.former | {before.user}
        self.pods[stage][pod].is_heard = True

    def works(self, stage: str, pod: Pod) -> bool:
        """It can log in, and may do its work with new connections and with old ones."""
        needed = {
            acl for user in {pod.user, *pod.former} for acl in users.needed(self.pipeline, self.stage(stage), user)
        }
        return self.passwords.get(pod.user) == pod.password and needed <= self.acls

    def broken(self) -> list[str]:
        return [name for stage in STAGES for name, pod in self.pods[stage].items() if not self.works(stage, pod)]

    def settle(self) -> None:
        """Plan and act, time passes, pods take what is new, until nothing is left to do."""
        for _ in range(30):
            for step in self.plan().steps:
                self.take(step)
            for stage in STAGES:
                for pod in self.pods[stage]:
                    self.refresh(stage, pod)
            self.now_s += KEEP_S
            if not self.plan().steps:
                return
        raise AssertionError(f"no end: {self.plan()}")

    def is_as_it_should_be(self) -> bool:
        current = {user for _, user, _ in self.secrets.values()}
        both = {
            names.user(self.pipeline, self.stage(name), turn): self.stage(name) for name in STAGES for turn in (1, 2)
        }
        needed = {acl for user, stage in both.items() for acl in users.needed(self.pipeline, stage, user)}
        return (
            self.secrets.keys() == set(STAGES)
            and self.passwords.keys() == current
            and self.recorded == both.keys()
            and self.acls == needed
            and not self.broken()
        )


def settled(**given) -> World:
    """Users are made, and two pods of each stage run with them."""
    world = World(**given)
    world.settle()
    for stage in STAGES:
        for number in range(2):
            world.start(stage, f"{stage}-{number}")
            world.refresh(stage, f"{stage}-{number}")
    return world


@pytest.fixture
def running() -> World:
    return settled()


def words(plan: Plan) -> list[str]:
    return [type(step).__name__ for step in plan.steps]


def test_a_new_pipeline_gets_a_user_for_each_stage():
    plan = World().plan()

    assert words(plan) == ["RememberUsers", "AddAcls", "Issue", "Issue"]
    assert plan.steps[2] == Issue("devices", "shop.sensors.devices.a", 1, "")


def test_nothing_is_done_while_all_is_well(running):
    assert running.plan() == Plan()
    assert running.is_as_it_should_be()


def test_the_way_of_a_rotation(running):
    running.asked = "today"
    assert words(running.plan()) == ["Issue", "Issue"]
    for step in running.plan().steps:
        running.take(step)

    assert running.plan().steps == ()
    assert running.plan().waiting["enrich"] == (
        "the former user is kept until these pods use generation 2: enrich-0, enrich-1"
    )
    running.now_s += 10 * DAY_S
    running.refresh("enrich", "enrich-0")
    assert running.plan().waiting["enrich"].endswith("generation 2: enrich-1")
    assert running.broken() == []
    running.refresh("enrich", "enrich-1")
    plan = running.plan()
    assert plan.steps == (DeleteUser("shop.sensors.enrich.a"),)
    assert list(plan.waiting) == ["devices"]


def test_the_former_user_is_kept_for_pods_that_start(running):
    running.asked = "today"
    for step in running.plan().steps:
        running.take(step)
    for stage in STAGES:
        for pod in running.pods[stage]:
            running.refresh(stage, pod)
    plan = running.plan()

    assert (plan.steps, plan.due_s) == ((), running.now_s + KEEP_S)
    running.now_s += KEEP_S
    assert words(running.plan()) == ["DeleteUser", "DeleteUser"]


def test_a_pod_that_says_nothing_keeps_the_former_user(running):
    running.asked = "today"
    for step in running.plan().steps:
        running.take(step)
    running.now_s += 10 * DAY_S
    for stage in STAGES:
        for pod in running.pods[stage]:
            running.refresh(stage, pod)
    running.pods["enrich"]["enrich-1"].is_heard = False

    assert [step for step in running.plan().steps if "enrich" in str(step)] == []


def test_one_annotation_is_one_rotation(running):
    running.asked = "today"
    running.settle()
    assert {issued.generation for issued, _, _ in running.secrets.values()} == {2}
    running.asked = ""
    assert running.plan().steps == ()
    running.asked = "tomorrow"
    running.settle()
    assert {issued.generation for issued, _, _ in running.secrets.values()} == {3}
    assert running.is_as_it_should_be()


@pytest.mark.parametrize(("text", "seconds"), [("Never", None), ("12h", 12 * 3_600.0), ("30d", 30 * DAY_S)])
def test_rotate_every_in_seconds(text, seconds):
    assert rotation.every_s(text) == seconds


def test_users_are_replaced_when_they_are_old(running):
    running.pipeline = pipeline("30d")
    due_s = running.plan().due_s
    assert due_s == min(issued.at_s for issued, _, _ in running.secrets.values()) + 30 * DAY_S
    running.now_s = due_s - 1
    assert running.plan().steps == ()
    running.now_s = due_s
    assert "Issue" in words(running.plan())
    running.settle()
    assert running.is_as_it_should_be()


def test_nothing_is_taken_away_before_all_pods_are_as_asked(running):
    running.acls.add(Acl("shop.sensors.enrich.a", "READ", "TOPIC", "former"))
    running.is_settled = False
    assert running.plan().steps == ()
    running.is_settled = True
    assert words(running.plan()) == ["RemoveAcls"]


def test_a_user_that_somebody_deleted_is_replaced_by_the_other(running):
    del running.passwords["shop.sensors.enrich.a"]

    assert [step for step in running.plan().steps if isinstance(step, Issue)] == [
        Issue("enrich", "shop.sensors.enrich.b", 2, "")
    ]
    running.settle()
    assert running.is_as_it_should_be()


def test_a_secret_that_is_gone_is_made_again_with_the_user_that_no_pod_uses(running):
    running.asked = "today"
    running.settle()
    del running.secrets["enrich"]
    assert [step for step in running.plan().steps if isinstance(step, Issue)] == [
        Issue("enrich", "shop.sensors.enrich.a", 3, "today")
    ]
    for step in running.plan().steps:
        running.take(step)
    assert running.broken() == []
    running.settle()
    assert running.is_as_it_should_be()


def test_users_of_a_former_stage_go_once_its_pods_are_gone(running):
    spec = running.pipeline.spec.model_copy(update={"producers": ()})
    running.pipeline = running.pipeline.model_copy(update={"spec": spec})
    running.is_settled = False
    assert running.plan().steps == ()
    running.is_settled = True
    assert words(running.plan()) == ["DeleteUser", "RemoveAcls"]
    for _ in range(2):
        for step in running.plan().steps:
            running.take(step)
    assert running.passwords.keys() == {"shop.sensors.enrich.a"}
    assert running.recorded == {acl.user for acl in running.acls} == {"shop.sensors.enrich.a", "shop.sensors.enrich.b"}


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("round"), st.integers(0, 8), st.booleans()),
        st.tuples(st.just("round"), st.just(99), st.just(False)),
        st.tuples(st.just("refresh all"), st.sampled_from(STAGES), st.none()),
        st.tuples(st.just("refresh"), st.sampled_from(STAGES), st.integers(0, 2)),
        st.tuples(st.just("start"), st.sampled_from(STAGES), st.integers(0, 2)),
        st.tuples(st.just("start late"), st.sampled_from(STAGES), st.integers(0, 2)),
        st.tuples(st.just("end"), st.sampled_from(STAGES), st.integers(0, 2)),
        st.tuples(st.just("rotate"), st.integers(0, 5), st.none()),
        st.tuples(st.just("wait"), st.sampled_from([1.0, KEEP_S, 40 * DAY_S]), st.none()),
        st.tuples(st.just("settled"), st.booleans(), st.none()),
    ),
    max_size=30,
)


def happen(world: World, event) -> None:
    """A round is cut short after some steps, and the last one of those, if it can be, in its middle."""
    match event:
        case ("round", count, is_torn):
            steps = world.plan().steps[:count]
            for place, step in enumerate(steps):
                world.take(step, only_half=is_torn and place == len(steps) - 1)
        case ("refresh all", stage, _):
            for pod in world.pods[stage]:
                world.refresh(stage, pod)
        case ("refresh", stage, number) if f"{stage}-{number}" in world.pods[stage]:
            world.refresh(stage, f"{stage}-{number}")
        case ("start", stage, number) if f"{stage}-{number}" not in world.pods[stage]:
            world.start(stage, f"{stage}-{number}")
        case ("start late", stage, number) if stage in world.secrets and f"{stage}-{number}" not in world.pods[stage]:
            world.start_with_the_former_secret(stage, f"{stage}-{number}")
        case ("end", stage, number):
            world.pods[stage].pop(f"{stage}-{number}", None)
        case ("rotate", number, _):
            world.asked = f"{number}"
        case ("wait", seconds, _):
            world.now_s += seconds
        case ("settled", is_settled, _):
            world.is_settled = is_settled


@settings(max_examples=400, deadline=None)
@given(begin=st.sampled_from([World, settled]), events=EVENTS)
def test_no_pod_is_ever_without_a_user_that_works_and_all_ends_well(begin, events):
    """Whatever happens in whatever order, and wherever rounds are cut short."""
    world = begin(pipeline=pipeline("30d"))
    for event in events:
        happen(world, event)
        assert world.broken() == [], event
    world.is_settled = True
    world.settle()

    assert world.is_as_it_should_be()


SABOTAGE = st.lists(
    st.tuples(st.sampled_from(["secret", "user", "acl"]), st.sampled_from(STAGES), st.sampled_from("ab")),
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(before=EVENTS, sabotage=SABOTAGE, after=EVENTS)
def test_what_somebody_takes_away_comes_back(before, sabotage, after):
    world = World(pipeline=pipeline("30d"))
    for event in before:
        happen(world, event)
    for what, stage, turn in sabotage:
        user = f"shop.sensors.{stage}.{turn}"
        if what == "secret":
            world.secrets.pop(stage, None)
        elif what == "user":
            world.passwords.pop(user, None)
        elif what == "acl":
            world.acls = {acl for acl in world.acls if acl.user != user}
    for event in after:
        happen(world, event)
    world.is_settled = True
    world.settle()

    assert world.is_as_it_should_be()


def test_a_secret_says_what_it_is():
    enrich = World().stage("enrich")
    data = {"username": b"shop.sensors.enrich.b", "password": b"canary", "generation": b"2"}
    said = rotation.annotations(Issued(2, 1_000_000.4, "today"))

    assert rotation.issued(pipeline(), enrich, data, said) == Issued(2, 1_000_000.0, "today")
    for broken in (
        {"username": b"shop.sensors.enrich.a"},
        {"username": b"root"},
        {"username": b"\xff"},
        {"password": b""},
        {"generation": b""},
        {"generation": b"-2"},
        {"generation": b"9" * 400},
        {"generation": "٢".encode()},
    ):
        assert rotation.issued(pipeline(), enrich, data | broken, said) is None
    assert rotation.issued(pipeline(), enrich, {}, {}) is None
    assert rotation.issued(pipeline(), enrich, data, {}) is None


def test_users_of_somebody_else_stop_everything(running):
    seen = replace(running.seen(), recorded=frozenset())
    plan = rotation.plan(running.pipeline, seen)

    assert plan.steps == ()
    assert len(plan.problems) == 4
    assert rotation.plan(running.pipeline, replace(seen, adopt=True)).problems == ()


def test_planning_changes_nothing(running):
    before = copy.deepcopy(running)
    running.plan()

    assert before == running


def test_names_do_not_depend_on_the_test():
    assert names.user(pipeline(), World().stage("enrich"), 2) == "shop.sensors.enrich.b"

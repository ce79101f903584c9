"""How the operator makes managed users: whose Secrets it writes, what it looks at, and that no password gets out."""

import asyncio
import base64
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from planned_world import OWNER, pipeline

from forebay.errors import Forbidden, TryLater
from forebay.pipeline import names
from forebay.planning.credentials.managing import Logins, LoginSecret
from forebay.planning.credentials.rotation import Issue, Issued, RemoveLogin
from forebay.planning.credentials.users import DeleteUser, Present
from forebay.planning.objects import Owner
from forebay.planning.pods import Trouble
from forebay.planning.reconciling import Identity
from forebay_operator import logins, metrics
from forebay_operator.act import Actor
from forebay_operator.api import PODS, SECRETS, Api, Conflict, Denied
from forebay_operator.events import Events
from forebay_operator.logins import Keeper, generation_in
from forebay_operator.memory import Memory
from forebay_operator.world import World

CANARY = "canary-3f9c"
MANAGED = pipeline(users="Managed")
ENRICH = "sensors-enrich-kafka-user"
FIRST = Issue("enrich", "default.sensors.enrich.a", 1, "")
SECOND = Issue("enrich", "default.sensors.enrich.b", 2, "today")
BODY: dict[str, Any] = {
    "metadata": {"name": "sensors", "namespace": "default", "uid": OWNER.uid, "generation": 1, "annotations": {}}
}


class Cluster:
    """Secrets, pods and Events as the API server has them; what was asked of it in `calls`."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict] = {}
        self.pods: list[dict] = []
        self.events: list[dict] = []
        self.statuses: list[dict] = []
        self.calls: list[str] = []
        self.failure: Exception | None = None
        self._version = 0

    def _stored(self, body: dict) -> dict:
        self._version += 1
        body = json.loads(json.dumps(body))
        body["metadata"] |= {"resourceVersion": str(self._version), "namespace": "default"}
        self.secrets[body["metadata"]["name"]] = body
        return body

    async def find(self, resource, _namespace, name) -> dict | None:
        assert resource == SECRETS
        self.calls.append(f"find {name}")
        return self.secrets.get(name)

    async def create(self, resource, _namespace, body) -> dict:
        if resource != SECRETS:
            self.events.append(body)
            return body
        self.calls.append(f"create {body['metadata']['name']}")
        if self.failure is not None:
            raise self.failure
        if body["metadata"]["name"] in self.secrets:
            raise Conflict("there is one")
        return self._stored(body)

    async def patch(self, resource, _namespace, name, patch, *, status=False) -> dict:
        if resource != SECRETS:
            assert status
            self.statuses.append(patch)
            return {**BODY, **patch}
        self.calls.append(f"patch {name}")
        if self.failure is not None:
            raise self.failure
        known = self.secrets[name]
        if patch["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"]:
            raise Conflict("it has changed")
        return self._stored({**known, "metadata": known["metadata"] | patch["metadata"], "data": patch["data"]})

    async def delete(self, _resource, _namespace, name) -> None:
        self.calls.append(f"delete {name}")
        self.secrets.pop(name, None)

    async def list_all(self, resource, _namespace, *, selector="") -> list[dict]:
        assert (resource, selector) == (PODS, "forebay.dev/pipeline=sensors")
        self.calls.append("list pods")
        return self.pods


class Kafka:
    """In place of `Users`: takes what it is given."""

    present_now = Present(frozenset(), frozenset())
    is_forbidden = False
    asked = 0
    done: list[str]

    def __init__(self, *_given) -> None:
        pass

    def present(self, _names) -> Present:
        type(self).asked += 1
        if self.is_forbidden:
            raise Forbidden("the user may not read users and ACLs")
        return self.present_now

    def take(self, step) -> None:
        self.done.append(str(step))

    def issue(self, user, generation, _connection) -> dict[str, str]:
        self.done.append(f"issue {user}")
        return {"username": user, "password": CANARY, "generation": str(generation)}


class Connections:
    async def to(self, _pipeline) -> SimpleNamespace:
        return SimpleNamespace(admin=None, properties={"sasl.password": CANARY})

    async def run(self, call, *arguments) -> Any:
        return call(*arguments)


class Place:
    """A keeper with all that it uses, and an actor around it."""

    def __init__(self, *, is_allowed=True) -> None:
        self.cluster, self.world, self.memory = Cluster(), World(), Memory(uid="1", fingerprints={}, written_at=0.0)
        api: Any = self.cluster
        connections: Any = Connections()
        self.keeper = Keeper(api, self.world, connections, is_allowed=is_allowed)
        self.actor = Actor(api, self.world, connections, self.keeper, Events(api, "operator-0"))

    def act(self, *steps, body=BODY):
        return asyncio.run(self.actor.act(steps, MANAGED, body, self.memory))

    def look(self, pipeline=MANAGED, **identity) -> Logins | Trouble | None:
        seen = Identity(**{"owner": OWNER} | identity)
        return asyncio.run(self.keeper.look(pipeline, self.memory, seen, 1, 1_000.0))

    def write(self, name: str, owner: Owner = OWNER, *, user="default.sensors.enrich.a", generation=1) -> None:
        (stage,) = (stage for stage in MANAGED.spec.stages if stage.name == "enrich")
        keys = {"username": user, "password": CANARY, "generation": str(generation)}
        body = logins.secret_body(MANAGED, stage, owner, keys, Issued(generation, 5.0))
        body["metadata"]["name"] = name
        self.world.see("Secret", self.cluster._stored(body))


@pytest.fixture
def kafka(monkeypatch):
    class Fresh(Kafka):
        done: list[str] = []  # noqa: RUF012 - one for each test

    monkeypatch.setattr(logins, "Users", Fresh)
    return Fresh


def test_the_secret_is_made_with_all_that_a_round_reads_from_it(kafka):
    place = Place()
    outcome = place.act(SECOND)
    secret = place.cluster.secrets[ENRICH]

    assert outcome.failure is None
    assert kafka.done == ["issue default.sensors.enrich.b"]
    assert base64.b64decode(secret["data"]["password"]).decode() == CANARY
    assert secret["metadata"]["labels"] == {names.PIPELINE_LABEL: "sensors", names.STAGE_LABEL: "enrich"}
    assert names.TEMPLATE_ANNOTATION not in secret["metadata"]["annotations"]
    kafka.present_now = Present(frozenset({SECOND.user}), frozenset())
    found = place.look()
    assert isinstance(found, Logins)
    known = found.secrets[ENRICH]
    assert known.is_ours
    assert known.issued is not None
    assert (known.issued.generation, known.issued.asked) == (2, "today")
    assert metrics.CREDENTIALS_ISSUED.labels("default", "sensors", "enrich")._value.get() >= 1


def test_its_own_secret_is_changed_in_place(kafka):
    place = Place()
    place.act(FIRST)
    place.cluster.secrets[ENRICH]["type"] = "of another kind"
    place.act(SECOND)

    assert place.cluster.calls == [f"find {ENRICH}", f"create {ENRICH}", f"find {ENRICH}", f"patch {ENRICH}"]
    assert base64.b64decode(place.cluster.secrets[ENRICH]["data"]["generation"]) == b"2"


@pytest.mark.parametrize("adopt", [False, True])
def test_a_secret_of_somebody_else_is_overwritten_on_request_alone(kafka, adopt):
    place = Place()
    place.write(ENRICH, Owner("sensors", "uid-of-a-former-one"), generation=7)
    annotations = {names.ADOPT_ANNOTATION: "true"} if adopt else {}
    outcome = place.act(FIRST, body={**BODY, "metadata": BODY["metadata"] | {"annotations": annotations}})

    assert (outcome.failure is None) == adopt
    assert bool(kafka.done) == adopt
    assert base64.b64decode(place.cluster.secrets[ENRICH]["data"]["generation"]) == (b"1" if adopt else b"7")


def test_a_secret_that_is_newer_than_was_thought_stays(kafka):
    place = Place()
    place.write(ENRICH, user="default.sensors.enrich.b", generation=2)
    outcome = place.act(SECOND)

    assert "of generation 2 already" in (outcome.failure or "")
    assert kafka.done == []


def test_no_user_is_deleted_that_a_secret_names(kafka):
    place = Place()
    place.write(ENRICH)
    outcome = place.act(DeleteUser("default.sensors.enrich.a"))
    assert "in use again" in (outcome.failure or "")
    assert kafka.done == []

    assert place.act(DeleteUser("default.sensors.enrich.b")).failure is None
    leaving = {**BODY, "metadata": BODY["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    assert place.act(DeleteUser("default.sensors.enrich.a"), body=leaving).failure is None
    assert kafka.done == ["delete user default.sensors.enrich.b", "delete user default.sensors.enrich.a"]


def test_its_own_secrets_are_deleted_and_nobody_elses(kafka):
    place = Place()
    place.write("ours")
    place.write("theirs", Owner("sensors", "another"))
    place.act(RemoveLogin("ours"), RemoveLogin("theirs"), RemoveLogin("gone"))

    assert place.cluster.secrets.keys() == {"theirs"}


def test_secrets_of_stages_that_are_gone_are_seen(kafka):
    place = Place()
    place.write("sensors-former-kafka-user")
    found = place.look()

    assert isinstance(found, Logins)
    assert found.secrets == {"sensors-former-kafka-user": LoginSecret(is_ours=True, issued=None)}


def test_users_are_asked_for_now_and_then_and_after_every_change(kafka):
    place = Place()
    place.look()
    place.look()
    assert kafka.asked == 1
    place.act(FIRST)
    kafka.present_now = Present(frozenset({FIRST.user}), frozenset())
    place.look()
    assert kafka.asked == 2


def test_a_user_of_which_kafka_does_not_know_yet_is_not_taken_for_one_that_is_gone(kafka, monkeypatch):
    monkeypatch.setattr(logins, "ASK_AGAIN_S", (0.0, 0.0))
    place = Place()
    place.act(FIRST)
    found = place.look()

    assert isinstance(found, Trouble)
    assert kafka.asked == 2
    assert "does not know yet that it has user default.sensors.enrich.a" in found.message
    kafka.present_now = Present(frozenset({FIRST.user}), frozenset())
    assert isinstance(place.look(), Logins)


def test_a_user_that_was_deleted_again_is_not_waited_for(kafka):
    place = Place()
    place.act(FIRST)
    place.cluster.secrets.clear()
    place.act(DeleteUser(FIRST.user))

    assert isinstance(place.look(), Logins)


def test_an_administrator_that_may_not_do_it_is_told_what_is_needed(kafka):
    place = Place()
    kafka.is_forbidden = True
    found = place.look()

    assert isinstance(found, Trouble)
    assert found.reason == "UsersNotPermitted"
    assert "kafka-acls" in found.message


def test_nothing_is_looked_at_where_nothing_is_to_be_done(kafka):
    assert Place().look(pipeline()) is None
    assert Place(is_allowed=False).look() is None
    assert kafka.asked == 0
    former = frozenset({"default.sensors.enrich.a"})
    assert isinstance(Place(is_allowed=False).look(users=former, deleted_for_s=1.0), Logins)
    assert isinstance(Place().look(pipeline(), users=former), Logins)


def running(name: str, phase="Running", stage="enrich") -> dict:
    labels = {names.PIPELINE_LABEL: "sensors", names.STAGE_LABEL: stage}
    return {"metadata": {"name": name, "labels": labels}, "status": {"phase": phase, "podIP": "10.0.0.1"}}


def test_all_pods_that_have_not_ended_are_asked_while_a_stage_is_between_two_users(kafka, monkeypatch):
    asked: list = []

    async def answers(places) -> list:
        asked.extend(places)
        return [4 for _ in asked]

    monkeypatch.setattr(logins, "generations", answers)
    place = Place()
    leaving = running("b")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    place.cluster.pods = [
        running("a"),
        leaving,
        running("c", "Failed"),
        running("d", "Pending"),
        running("e", stage="x"),
    ]
    place.write(ENRICH)
    for stage in ("devices", "store"):
        place.write(f"sensors-{stage}-kafka-user", user=f"default.sensors.{stage}.a")
    firsts = frozenset(f"default.sensors.{stage}.a" for stage in ("devices", "enrich", "store"))
    kafka.present_now = Present(firsts, frozenset())
    found = place.look()
    assert isinstance(found, Logins)
    assert found.pods == {}
    assert "list pods" not in place.cluster.calls

    kafka.present_now = Present(firsts | {SECOND.user}, frozenset())
    place.memory.distrust_users()
    found = place.look()
    assert isinstance(found, Logins)
    assert found.pods == {"enrich": {"a": 4, "b": 4, "d": 4}}
    assert asked == [("10.0.0.1", ENRICH)] * 3


def test_what_a_pod_exports_is_read_and_nonsense_is_no_generation():
    exported = (
        'forebay_credential_generation{pipeline="p",secret="a"} 3.0\n'
        'forebay_credential_generation{pipeline="p",secret="b"} 4.0\n'
        "forebay_records_in_total 9.0\n"
    )
    assert [generation_in(exported, secret) for secret in "abc"] == [3, 4, None]
    for nonsense in ("<html>", "", 'forebay_credential_generation{secret="a"} NaN', "\x00", "a{ 1"):
        assert generation_in(nonsense, "a") is None


def test_a_pod_without_an_address_says_nothing():
    assert asyncio.run(logins.generations([(None, "a"), ("", "a")])) == [None, None]


FAILURES = {
    "a server that repeats what it was given": (TryLater(f"Kubernetes refuses: data {CANARY}"), "TryLater"),
    "another one came first": (Conflict(f"it has changed: {CANARY}"), "Conflict"),
    "no right": (Denied("Kubernetes refuses to POST secrets: let an administrator add the right"), "add the right"),
}


@pytest.mark.parametrize("how", [None, *FAILURES])
def test_no_password_gets_out(kafka, how, capsys, caplog):
    """Not into the log, an Event, the status, an exception, or memory; whether it is stored or not."""
    caplog.set_level(logging.DEBUG)
    place = Place()
    place.cluster.failure, complaint = FAILURES[how] if how else (None, "")
    with structlog.testing.capture_logs() as lines:
        outcome = place.act(FIRST, SECOND)
    said = [lines, outcome, place.cluster.events, place.cluster.statuses, vars(place.world), place.memory, caplog.text]
    said += [capsys.readouterr(), place.keeper.__dict__]

    assert complaint in (outcome.failure or "")
    assert (outcome.failure is None) == (how is None)
    for text in (CANARY, base64.b64encode(CANARY.encode()).decode()):
        assert text not in repr(said)


def test_the_cause_of_a_failed_write_does_not_travel_with_it(kafka):
    place = Place()
    place.cluster.failure = TryLater(f"data {CANARY}")
    with pytest.raises(TryLater) as caught:
        asyncio.run(place.keeper.take(MANAGED, Identity(owner=OWNER), FIRST, place.memory))

    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("managed_users", [False, True])
def test_the_api_refuses_to_write_secrets_where_users_are_not_made(managed_users):
    client: Any = SimpleNamespace(configuration=SimpleNamespace(host="https://nowhere.invalid"))
    api = Api(client, managed_users=managed_users)
    calls = (api.create(SECRETS, "shop", {}), api.patch(SECRETS, "shop", "x", {}), api.delete(SECRETS, "shop", "x"))
    for call in calls:
        with pytest.raises((AssertionError, AttributeError)) as caught:
            asyncio.run(call)
        assert ("not among the operator's rights" in str(caught.value)) != managed_users

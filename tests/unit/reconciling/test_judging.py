"""How the operator judges Secrets: read when they have changed or time has passed, and never kept."""

import asyncio
import base64
import datetime as dt
from typing import Any

import pytest
from authority import Authority

from forebay.errors import TryLater
from forebay.pipeline.spec import Pipeline
from forebay.planning.pods import Trouble
from forebay.planning.reconciling import Observation
from forebay_operator import metrics
from forebay_operator.credentials import Judge, secrets_of
from forebay_operator.memory import Memory
from forebay_operator.observe import Sources, observe
from forebay_operator.world import World

NOW = dt.datetime.now(dt.UTC)  # noqa: TID251 - the authority issues from the real now on
DAY = dt.timedelta(days=1)
LOGIN = {"username": b"sam", "password": b"canary"}


def pipeline(**kafka) -> Pipeline:
    return Pipeline.model_validate(
        {
            "metadata": {"name": "sensors", "namespace": "shop"},
            "spec": {
                "kafka": {"bootstrapServers": "kafka:9093", "tls": {}, **kafka},
                "topics": [{"name": "raw", "partitions": 1}],
                "sinks": [{"name": "store", "from": "raw", "destination": {"stdout": {}}}],
            },
        }
    )


class Cluster:
    """Secrets as the API server has them, and the operator beside them. `write` alone makes no event."""

    def __init__(self) -> None:
        self.bodies: dict[str, dict] = {}
        self.reads: list[str] = []
        self.is_away = False
        self.world = World()
        self.judge = Judge(self, self.world)  # type: ignore[arg-type]  # as much of it as is used

    async def find(self, _resource, _namespace, name) -> dict | None:
        self.reads.append(name)
        if self.is_away:
            raise TryLater("Kubernetes does not answer")
        return self.bodies.get(name)

    def write(self, name: str, **contents: bytes) -> None:
        data = {key: base64.b64encode(value).decode() for key, value in contents.items()}
        self.bodies[name] = {"metadata": {"namespace": "shop", "name": name}, "data": data}

    def tell(self, name: str) -> None:
        self.world.see("Secret", self.bodies[name])

    def set(self, name: str, **contents: bytes) -> None:
        self.write(name, **contents)
        self.tell(name)

    def said(self, pipeline: Pipeline, now: dt.datetime = NOW) -> list[str]:
        verdicts = asyncio.run(self.judge.verdicts(pipeline, now.timestamp()))
        return [str(problem) for verdict in verdicts.values() for problem in verdict.problems]


WITH_LOGIN = {"sasl": {"secretRef": {"name": "user"}}}
WITH_AUTHORITY = {"tls": {"caSecretRef": {"name": "ca"}}}
MANAGED = {"sasl": {"users": "Managed"}, "adminSecretRef": {"name": "admin"}}


def test_a_secret_is_read_once_and_again_when_it_has_changed():
    cluster = Cluster()
    asked = pipeline(**WITH_LOGIN)
    assert cluster.said(asked) == ["Secret user does not exist: create it, with password"]
    cluster.set("user", username=b"sam")
    assert cluster.said(asked) == cluster.said(asked) == ["Secret user lacks password: add what is missing"]
    cluster.tell("user")
    cluster.said(asked)
    assert cluster.reads == ["user"]

    cluster.set("user", username=b"sam", password=b"")
    assert cluster.said(asked) == ["key password of Secret user is empty: store its value"]
    cluster.set("user", **LOGIN)
    assert cluster.said(asked) == []
    assert cluster.reads == ["user"] * 3
    cluster.world.forget("Secret", "shop", "user")
    assert cluster.said(asked) == ["Secret user does not exist: create it, with password"]


def test_time_alone_changes_what_is_said(tmp_path):
    cluster = Cluster()
    cluster.set("ca", **{"ca.crt": Authority(tmp_path, lasts=10 * DAY).pem})
    asked = pipeline(**WITH_AUTHORITY)

    assert cluster.said(asked, NOW) == cluster.said(asked, NOW + 8 * DAY) == []
    (soon,) = cluster.said(asked, NOW + 9.5 * DAY)
    (over,) = cluster.said(asked, NOW + 10.5 * DAY)
    assert "key ca.crt of Secret ca expires on" in soon
    assert "key ca.crt of Secret ca expired on" in over
    assert cluster.said(asked, NOW + 99 * DAY) == [over]
    assert len(cluster.reads) == 3


def test_one_secret_may_have_several_uses(tmp_path):
    cluster = Cluster()
    cluster.set("all", **{"ca.crt": Authority(tmp_path, lasts=10 * DAY).pem, "password": b"canary"})
    tls = {"caSecretRef": {"name": "all"}, "clientCertificateSecretRef": {"name": "all"}}
    asked = pipeline(tls=tls, sasl={"secretRef": {"name": "all"}})

    assert cluster.said(asked) == cluster.said(asked) == ["Secret all lacks tls.crt, tls.key: add what is missing"]


def test_what_was_read_ahead_of_its_event_is_judged_again_then():
    cluster = Cluster()
    asked = pipeline(**WITH_LOGIN)
    cluster.set("user", username=b"sam")
    cluster.write("user", **LOGIN)  # its event is on the way
    assert cluster.said(asked) == []
    cluster.write("user", username=b"sam")  # nobody ever hears of what was there in between
    cluster.tell("user")
    assert cluster.said(asked) == ["Secret user lacks password: add what is missing"]


def test_a_secret_that_vanished_unseen_is_missing_and_found_when_it_is_back():
    cluster = Cluster()
    asked = pipeline(**WITH_LOGIN)
    cluster.set("user", **LOGIN)
    body = cluster.bodies.pop("user")
    assert cluster.said(asked) == ["Secret user does not exist: create it, with password"]
    cluster.bodies["user"] = body
    assert cluster.said(asked) == []


def test_a_read_that_fails_is_no_verdict():
    cluster = Cluster()
    cluster.set("user", **LOGIN)
    cluster.is_away = True
    with pytest.raises(TryLater):
        cluster.said(pipeline(**WITH_LOGIN))
    cluster.is_away = False
    assert cluster.said(pipeline(**WITH_LOGIN)) == []


def test_secrets_of_managed_users_are_asked_for_until_they_are_there():
    cluster = Cluster()
    cluster.set("admin", **LOGIN)
    asked = pipeline(**MANAGED)

    assert secrets_of(asked) == {"admin", "sensors-store-kafka-user"}
    assert cluster.said(asked) == ["Secret sensors-store-kafka-user does not exist: create it, with password"]
    cluster.set("sensors-store-kafka-user", **LOGIN)
    assert cluster.said(asked) == []


def test_no_contents_stay_in_memory(tmp_path):
    cluster = Cluster()
    pem = Authority(tmp_path).pem
    cluster.set("ca", **{"ca.crt": pem})
    cluster.set("user", username=b"sam", password=b"canary\ncanary")
    cluster.said(pipeline(**WITH_AUTHORITY, **WITH_LOGIN))
    kept = repr((vars(cluster.world), vars(cluster.judge)))

    assert "line break" in kept
    for contents in (b"canary", pem[40:80]):
        assert contents.decode() not in kept
        assert base64.b64encode(contents).decode()[:8] not in kept


class Unreachable:
    """Everything else that a round looks at: nothing is there."""

    async def to(self, _pipeline) -> None:
        raise TryLater("no Kafka here")

    async def render(self, _pipeline) -> list:
        return []

    async def look(self, *_) -> None:
        return None

    def lose(self, _key) -> None:
        pass

    def decided(self, _key) -> dict:
        return {}

    lasting = decided


def seen(cluster: Cluster, memory: Memory, **metadata) -> Observation:
    rest: Any = Unreachable()
    sources = Sources(cluster.world, rest, cluster.judge, rest, rest, rest, {})
    body = {"metadata": {"name": "sensors", "uid": "1", "generation": 1, **metadata}}
    return asyncio.run(observe(pipeline(**WITH_AUTHORITY), body, memory, sources, NOW.timestamp()))


def test_a_round_sees_problems_and_ends_or_that_it_could_not_read(tmp_path):
    cluster = Cluster()
    memory = Memory(uid="1", fingerprints={}, written_at=0.0)
    cluster.set("ca", **{"ca.crt": Authority(tmp_path, lasts=10 * DAY).pem})
    cluster.is_away = True
    assert seen(cluster, memory).secrets == Trouble("SecretsUnreadable", "Kubernetes does not answer")
    assert seen(cluster, memory, deletionTimestamp=NOW.isoformat()).secrets == ()

    cluster.is_away = False
    assert seen(cluster, memory).secrets == ()
    assert {key: abs(end - (NOW + 10 * DAY).timestamp()) < 3_600 for key, end in memory.expiries.items()} == {
        ("ca", "ca.crt"): True
    }
    assert shown("sensors") == memory.expiries
    cluster.set("ca", other=b"")
    assert [str(problem) for problem in seen(cluster, memory).secrets] == [
        "Secret ca lacks ca.crt: add what is missing"
    ]
    assert shown("sensors") == {}


def shown(pipeline: str) -> dict[tuple[str, str], float]:
    (family,) = metrics.CERTIFICATE_EXPIRY.collect()
    return {
        (sample.labels["secret"], sample.labels["key"]): sample.value
        for sample in family.samples
        if (sample.labels["namespace"], sample.labels["pipeline"]) == ("shop", pipeline)
    }


def test_the_ends_of_certificates_are_shown_as_long_as_they_are_there():
    metrics.show_expiries(("shop", "shown"), {("ca", "ca.crt"): 5.0, ("client", "tls.crt"): 7.0})
    metrics.show_expiries(("shop", "other"), {("ca", "ca.crt"): 5.0})
    assert shown("shown") == {("ca", "ca.crt"): 5.0, ("client", "tls.crt"): 7.0}
    metrics.show_expiries(("shop", "other"), {})
    metrics.show_expiries(("shop", "shown"), {("ca", "ca.crt"): 6.0})
    assert shown("shown") == {("ca", "ca.crt"): 6.0}
    metrics.show_expiries(("shop", "shown"), {})
    assert shown("shown") == {}

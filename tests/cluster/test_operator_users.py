"""Managed users: the operator runs here, against the cluster of KUBECONFIG and an embedded Kafka that enforces ACLs.

No pod has to run for these, so an API server is enough of a cluster; none that runs could be asked from here.
"""

import base64
import json

import pytest
from authority import ROOT_PASSWORD, Authority, enforcing
from confluent_kafka import Producer
from operated import Operated, quiet
from services import until

from forebay.errors import Forbidden
from forebay.kafka.admin import Admin, log_in
from forebay.kafka.users import Users, new_password
from forebay.pipeline.load import load_object
from forebay.planning.credentials import users
from forebay.planning.credentials.rotation import KEEP_S
from forebay.planning.credentials.users import Acl, Present

pytestmark = [pytest.mark.long, pytest.mark.timeout(600), pytest.mark.usefixtures("definition")]

STAGES = ("devices", "enrich", "store")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def kafka(tmp_path_factory, authority):
    with enforcing(authority, tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


class Place:
    """A namespace with its operator, and what its managed users are."""

    def __init__(self, operated: Operated, kafka, authority: Authority) -> None:
        self.operated, self.kafka, self.authority = operated, kafka, authority
        self.users = Users(Admin(self.login("root", ROOT_PASSWORD)))
        self.secret("kafka-ca", **{"ca.crt": authority.file.read_text()})
        self.secret("kafka-admin", username="root", password=ROOT_PASSWORD)

    def login(self, user: str, password: str) -> dict:
        return {
            "bootstrap.servers": self.kafka.sasl_ssl_servers,
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": password,
            "ssl.ca.pem": self.authority.file.read_text(),
        }

    def secret(self, name: str, **keys: str) -> None:
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys}
        self.operated.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def apply(self, **changes) -> None:
        security = {
            "bootstrapServers": self.kafka.sasl_ssl_servers,
            "tls": {"caSecretRef": {"name": "kafka-ca"}},
            "sasl": {"users": "Managed"},
            "adminSecretRef": {"name": "kafka-admin"},
        }
        self.operated.apply(**{"kafka": security, "workloads": "External"} | changes)

    def start(self, **environment: str):
        return self.operated.start(**{"MANAGED_USERS": "true", "LOG_LEVEL": "debug"} | environment)

    def user(self, stage: str, turn: str = "a") -> str:
        return f"{self.operated.namespace}.sensors.{stage}.{turn}"

    def all_users(self) -> list[str]:
        return [self.user(stage, turn) for stage in STAGES for turn in "ab"]

    def present(self) -> Present:
        return self.users.present(self.all_users())

    def needed(self) -> set[Acl]:
        body = self.operated.pipeline()
        pipeline = load_object({name: body[name] for name in ("apiVersion", "kind", "metadata", "spec")})
        return {
            acl
            for stage in pipeline.spec.stages
            for turn in "ab"
            for acl in users.needed(pipeline, stage, self.user(stage.name, turn))
        }

    def written(self, stage: str) -> dict[str, str]:
        """What the Secret of a stage holds; nothing while there is none."""
        name = f"sensors-{stage}-kafka-user"
        if f"secret/{name}" not in self.operated.names("secret"):
            return {}
        data = self.operated.get("secret", name)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def until_written(self, generation: int = 1) -> None:
        until(
            lambda: [self.written(stage).get("generation") for stage in STAGES] == [str(generation)] * len(STAGES),
            what=f"generation {generation} is written",
            deadline_s=90,
            every_s=0.5,
        )

    def annotate(self, name: str, value: str) -> None:
        self.operated.kubectl("annotate", "pipeline", "sensors", f"forebay.dev/{name}={value}", "--overwrite")


@pytest.fixture
def place(kafka, authority, tmp_path):
    with Operated(kafka.bootstrap_servers, tmp_path) as operated:
        yield Place(operated, kafka, authority)


def test_each_stage_has_a_user_that_may_do_what_the_stage_does(place):
    place.start()
    place.apply()
    place.until_written()
    place.operated.until_condition("CredentialsReady", "Complete")

    assert place.present() == Present(frozenset(place.user(stage) for stage in STAGES), frozenset(place.needed()))
    assert sorted(place.operated.pipeline()["status"]["managedUsers"]) == sorted(place.all_users())
    for stage in STAGES:
        found = place.written(stage)
        assert found["username"] == place.user(stage)
        log_in(place.login(found["username"], found["password"]))
    owners = place.operated.get("secret", "sensors-store-kafka-user")["metadata"]["ownerReferences"]
    assert [owner["uid"] for owner in owners] == [place.operated.pipeline()["metadata"]["uid"]]
    assert len(place.operated.events("UserIssued")) == len(STAGES)


def test_at_rest_nothing_is_done(place):
    place.start()
    place.apply()
    place.until_written()
    place.operated.until_condition("CredentialsReady", "Complete")
    before = place.operated.steps()

    assert quiet(20, lambda: place.operated.steps()[len(before) :]) == []


def test_drift_is_corrected_and_others_are_left_alone(place):
    foreign = f"{place.operated.namespace}.other"
    theirs = Acl(foreign, "READ", "TOPIC", "raw")
    place.users.create(foreign, new_password())
    place.users.add([theirs])
    place.start()
    place.apply()
    place.until_written()
    needed = sorted(place.needed())
    strange = Acl(place.user("enrich"), "READ", "TOPIC", "of-somebody")
    place.users.add([strange])
    place.users.remove([needed[0]])
    place.operated.kubectl("delete", "secret", "sensors-store-kafka-user")

    until(lambda: place.present().acls == frozenset(needed), what="the ACLs are as before", deadline_s=120)
    until(lambda: place.written("store").get("generation") == "2", what="the Secret is back")
    assert place.users.present([foreign]) == Present(frozenset({foreign}), frozenset({theirs}))


def test_a_rotation_waits_for_a_pod_that_says_nothing(place):
    place.start()
    place.apply()
    place.until_written()
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "silent",
            "labels": {"forebay.dev/pipeline": "sensors", "forebay.dev/stage": "enrich"},
        },
        "spec": {
            "nodeSelector": {"no": "where"},
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "x",
                    "image": "x",
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    place.operated.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    former = place.written("store")
    place.annotate("rotate", "today")
    place.until_written(2)
    assert place.present().users == frozenset(place.all_users())

    until(lambda: place.user("store") not in place.present().users, what="the former user of store is gone",
          deadline_s=KEEP_S + 90)  # fmt: skip
    with pytest.raises(Forbidden):
        log_in(place.login(former["username"], former["password"]), timeout_s=5)
    assert place.user("enrich") in place.present().users
    assert "generation 2: silent" in place.operated.condition("CredentialsReady")["message"]
    place.operated.kubectl("delete", "pod", "silent", "--grace-period=0", "--force")
    until(lambda: place.user("enrich") not in place.present().users, what="the former user of enrich is gone",
          deadline_s=60)  # fmt: skip
    assert [place.written(stage)["generation"] for stage in STAGES] == ["2"] * len(STAGES)


@pytest.mark.parametrize("after", ["RememberUsers", "AddAcls", "Issue"])
def test_an_operator_that_is_killed_is_no_loss(place, after):
    words = {"RememberUsers": "record", "AddAcls": "allow", "Issue": "make user"}
    first = place.start(ELECT="false")
    place.apply()
    until(lambda: any(step.startswith(words[after]) for step in place.operated.steps()), what=after, every_s=0.02)
    place.operated.kill(first)
    place.start(ELECT="false")
    place.operated.until_condition("CredentialsReady", "Complete", deadline_s=120)

    for stage in STAGES:
        found = place.written(stage)
        log_in(place.login(found["username"], found["password"]))


def test_deletion_takes_users_and_rights_away_and_nobody_elses(place):
    foreign = f"{place.operated.namespace}.other.enrich.a"
    place.users.create(foreign, new_password())
    place.start()
    place.apply()
    place.until_written()
    place.operated.kubectl("delete", "pipeline", "sensors", "--timeout=90s")

    assert place.present() == Present(frozenset(), frozenset())
    assert place.users.present([foreign]).users == {foreign}
    assert place.operated.kafka_topics(), "deletionPolicy is Retain"


def test_a_secret_of_somebody_else_is_not_overwritten(place):
    place.secret("sensors-enrich-kafka-user", username="somebody", password="canary-of-somebody")
    place.start()
    place.apply()
    message = place.operated.until_condition("CredentialsReady", "UsersDiffer")["message"]

    assert "Secret sensors-enrich-kafka-user was not made by this Pipeline" in message
    assert place.present().users == frozenset()
    place.annotate("adopt", "true")
    place.until_written()


def test_an_administrator_without_the_right_is_told_what_is_needed(place):
    place.secret("kafka-admin", username="nobody", password=ROOT_PASSWORD)
    place.start()
    place.apply()
    message = place.operated.until_condition("CredentialsReady", "UsersNotPermitted")["message"]

    assert "kafka-acls" in message


def test_without_the_right_to_write_secrets_it_says_so(place):
    place.start(MANAGED_USERS="false")
    place.apply()

    assert "managedUsers" in place.operated.until_condition("CredentialsReady", "UsersNotManaged")["message"]
    assert place.present() == Present(frozenset(), frozenset())
    assert place.operated.pipeline()["metadata"].get("finalizers", []) == []


def test_no_password_is_anywhere_but_in_its_secret(place):
    place.start()
    place.apply()
    place.until_written()
    passwords = {place.written(stage)["password"] for stage in STAGES}
    place.annotate("rotate", "today")
    place.until_written(2)
    passwords |= {place.written(stage)["password"] for stage in STAGES} | {ROOT_PASSWORD}
    said = [
        (place.operated.folder / "operator-0.log").read_text(),
        place.operated.kubectl("get", "pipelines,configmaps,services,events", "-o", "json"),
        place.operated.kubectl("get", "events.v1.events.k8s.io", "-o", "json"),
    ]
    encoded = {base64.b64encode(password.encode()).decode() for password in passwords}

    assert len(passwords) == 2 * len(STAGES) + 1
    assert not [text for text in passwords | encoded for place_of in said if text in place_of]


def test_a_user_may_not_write_where_its_stage_does_not(place):
    place.start()
    place.apply()
    place.until_written()
    found = place.written("store")
    failures: list = []
    producer = Producer(place.login(found["username"], found["password"]))
    producer.produce(place.operated.topic("raw"), b"x", on_delivery=lambda error, _: failures.append(error))
    producer.flush(30)

    assert [error.name() for error in failures] == ["TOPIC_AUTHORIZATION_FAILED"]

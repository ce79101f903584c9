"""Managed users against a broker that enforces ACLs: each stage works with exactly its ACLs, and touches nobody else's."""

import json
import time
from pathlib import Path

import pytest
import topics
from authority import ROOT_PASSWORD, Authority, enforcing
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from services import Service, until

from forebay.errors import Forbidden
from forebay.kafka.admin import Admin, log_in
from forebay.kafka.users import Users, new_password
from forebay.pipeline import load, names
from forebay.planning import topics as planning
from forebay.planning.credentials import users
from forebay.planning.credentials.users import Acl, Present

READINGS = 20


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def kafka(tmp_path_factory, authority):
    with enforcing(authority, tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


def login(kafka, authority, user: str, password: str) -> dict:
    return {
        "bootstrap.servers": kafka.sasl_ssl_servers,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user,
        "sasl.password": password,
        "ssl.ca.pem": authority.file.read_text(),
    }


@pytest.fixture(scope="module")
def admin(kafka, authority):
    return Users(Admin(login(kafka, authority, "root", ROOT_PASSWORD)))


class World:
    """One Pipeline with a stage of each kind; its topics exist, its stages have users when `allow` has made them."""

    def __init__(self, kafka, authority, admin, folder: Path) -> None:
        self.kafka, self.authority, self.admin, self.folder = kafka, authority, admin, folder
        name = topics.unique("p")
        self.text = f"""
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}, namespace: shop}}
spec:
  kafka:
    bootstrapServers: "{kafka.sasl_ssl_servers}"
    tls: {{caSecretRef: {{name: kafka-ca}}}}
    sasl: {{users: Managed}}
    adminSecretRef: {{name: kafka-admin}}
  topics:
    - {{name: {name}-raw, partitions: 2, replicationFactor: 1}}
    - {{name: {name}-out, partitions: 2, replicationFactor: 1}}
  producers:
    - {{name: devices, to: {name}-raw, key: {{field: device_id}}, source: {{simulator: {{records: {READINGS}}}}}}}
  processors:
    - name: enrich
      from: {name}-raw
      to: {name}-out
      transforms: [{{name: avg, movingAverage: {{field: temperature_c, output: average}}}}]
  sinks:
    - {{name: store, from: {name}-out, destination: {{stdout: {{}}}}}}
"""
        self.pipeline = load.parse(self.text, "pipeline.yaml")
        self.stages = {stage.name: stage for stage in self.pipeline.spec.stages}
        plain = Admin({"bootstrap.servers": kafka.bootstrap_servers})
        observed = plain.observe(planning.names_of(self.pipeline))
        for action in planning.diff(planning.wanted(self.pipeline, observed), observed).actions:
            plain.apply(action)
        self.secrets = folder / "secrets"
        self.write_secret("kafka-ca", **{"ca.crt": authority.file.read_text()})

    def write_secret(self, name: str, **keys: str) -> None:
        (self.secrets / name).mkdir(parents=True, exist_ok=True)
        for key, value in keys.items():
            (self.secrets / name / key).write_text(value)

    def user(self, stage: str, generation: int = 1) -> str:
        return names.user(self.pipeline, self.stages[stage], generation)

    def needed(self, stage: str, generation: int = 1) -> tuple[Acl, ...]:
        return users.needed(self.pipeline, self.stages[stage], self.user(stage, generation))

    def allow(self, stage: str, acls) -> dict:
        """Make the stage's user with these ACLs, and its Secret; returns the user's properties."""
        password = new_password()
        self.admin.create(self.user(stage), password)
        self.admin.add(acls)
        secret = names.login_secret(self.pipeline, self.stages[stage])
        self.write_secret(secret, username=self.user(stage), password=password, generation="1")
        properties = login(self.kafka, self.authority, self.user(stage), password)
        log_in(properties)
        return properties

    def feed(self, topic: str) -> None:
        """Readings, and a record that nobody can read, at the end of each partition."""
        reading = json.dumps({"device_id": "d", "timestamp": 1, "temperature_c": 1.5, "humidity_pct": 2.0}).encode()
        topics.write(self.kafka.bootstrap_servers, topic, [(b"d", reading)] * READINGS + [(b"d", b"broken")])

    def service(self, stage: str) -> Service:
        kind = type(self.stages[stage]).__name__.lower()
        extra = {"FOREBAY_SECRETS": str(self.secrets), "FOREBAY_EXIT_WHEN_DONE": "true"}
        return Service(self.folder, self.text, stage, kind, None, **extra)

    def has_done_its_work(self, service: Service, stage: str) -> bool:
        done = service.metric("forebay_records_out_total") == READINGS
        return done and (stage == "devices" or service.metric("forebay_dead_letters_total") == 1)


@pytest.fixture
def world(kafka, authority, admin, tmp_path):
    made = World(kafka, authority, admin, tmp_path)
    name = made.pipeline.metadata.name
    made.feed(f"{name}-raw")
    made.feed(f"{name}-out")
    return made


STAGES = ("devices", "enrich", "store")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_works_with_exactly_its_acls(world, stage):
    world.allow(stage, world.needed(stage))
    with world.service(stage) as service:
        if stage == "devices":
            assert service.wait() == 0
        else:
            until(lambda: world.has_done_its_work(service, stage), what="the work is done")
        assert "uthoriz" not in service.log(), service.log()


EACH = [(stage, place) for stage, count in (("devices", 4), ("enrich", 8), ("store", 3)) for place in range(count)]


@pytest.mark.parametrize(("stage", "place"), EACH)
def test_without_any_one_of_its_acls_a_stage_waits_and_says_for_what(world, stage, place):
    """None of the ACLs is superfluous, and one that is missing ends no process: it works once it is added."""
    needed = world.needed(stage)
    missing = needed[place]
    world.allow(stage, [acl for acl in needed if acl != missing])
    with world.service(stage) as service:
        until(
            lambda: "uthorization failed" in service.log() or world.has_done_its_work(service, stage),
            what=f"a complaint about {missing}",
        )
        assert not world.has_done_its_work(service, stage), f"superfluous: {missing}"
        time.sleep(1)
        assert service.is_running(), service.log()
        world.admin.add([missing])
        if stage == "devices":
            assert service.wait() == 0
        else:
            until(lambda: world.has_done_its_work(service, stage), what=f"works with {missing}")


def test_each_acl_is_tried(world):
    assert [(stage, place) for stage in STAGES for place in range(len(world.needed(stage)))] == EACH


def refusal(action) -> int:
    with pytest.raises(KafkaException) as caught:
        action()
    return caught.value.args[0].code()


def assert_nothing_is_reached(me: dict, others: World) -> None:
    """With a user's properties: topics, groups, transactional ids."""
    other, reader = others.pipeline, others.stages["enrich"]
    consumer = Consumer({**me, "log_level": 0, "group.id": names.group_id(other, reader)})
    producer = Producer({**me, "log_level": 0})
    failures = []
    for topic in planning.names_of(other):
        # a topic that may not even be described may not be read: to Kafka's authorizer READ implies DESCRIBE
        assert consumer.list_topics(topic, 20).topics[topic].error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        try:
            producer.produce(topic, b"x", on_delivery=lambda error, _: failures.append(error.code()))
        except KafkaException as refused:  # the client has heard of it since it was told of the first topic
            failures.append(refused.args[0].code())
    assert producer.flush(20) == 0
    assert failures == [KafkaError.TOPIC_AUTHORIZATION_FAILED] * len(planning.names_of(other))
    consumer.subscribe([reader.from_])
    event = until(lambda: consumer.poll(1), what="an answer about the group")
    assert event.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    assert consumer.assignment() == []
    consumer.close()
    for each in others.stages.values():
        transactional = Producer({**me, "log_level": 0, "transactional.id": names.transactional_id(other, each, 0)})
        denied = KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        assert refusal(lambda client=transactional: client.init_transactions(20)) == denied


def test_a_tenant_reaches_nothing_of_another(kafka, authority, admin, tmp_path):
    """And cannot give itself more, though the other's ACLs are all there."""
    mine = World(kafka, authority, admin, tmp_path / "mine")
    others = World(kafka, authority, admin, tmp_path / "others")
    for name in STAGES:
        others.allow(name, others.needed(name))
    for name in STAGES:
        me = mine.allow(name, mine.needed(name))
        assert_nothing_is_reached(me, others)
        with pytest.raises(Forbidden, match="may not create user"):
            Users(Admin(me)).create(mine.user(name), "taken over")
        with pytest.raises(Forbidden, match="may not create ACLs"):
            Users(Admin(me)).add([Acl(mine.user(name), "ALL", "TOPIC", "*")])


def test_an_administrator_without_the_right_is_told(kafka, authority):
    powerless = Users(Admin(login(kafka, authority, "nobody", ROOT_PASSWORD)))
    for attempt in (
        lambda: powerless.present(["shop.p.enrich.a"]),
        lambda: powerless.create("shop.p.enrich.a", "canary"),
        lambda: powerless.delete("shop.p.enrich.a"),
        lambda: powerless.add([Acl("shop.p.enrich.a", "READ", "TOPIC", "t")]),
        lambda: powerless.remove([Acl("shop.p.enrich.a", "READ", "TOPIC", "t")]),
    ):
        with pytest.raises(Forbidden, match="let an administrator of Kafka add the ACL") as caught:
            attempt()
        assert "canary" not in str(caught.value)


def test_steps_are_taken_again_without_harm(kafka, authority, admin):
    user = f"shop.{topics.unique('p')}.enrich.a"
    acls = [Acl(user, "READ", "TOPIC", "t"), Acl(user, "WRITE", "TRANSACTIONAL_ID", "shop.p.", is_prefix=True)]
    passwords = [new_password(), new_password()]
    for password in passwords:
        admin.create(user, password)
        admin.add(acls)

    assert admin.present([user]) == Present(frozenset({user}), frozenset(acls))
    log_in(login(kafka, authority, user, passwords[1]))
    with pytest.raises(Forbidden, match="refuses the login"):
        log_in(login(kafka, authority, user, passwords[0]), timeout_s=0)
    for _ in range(2):
        admin.remove(acls)
        admin.delete(user)

    assert admin.present([user]) == Present(frozenset(), frozenset())


def everything(admin: Users) -> tuple:
    """All users and ACLs that Kafka has."""
    filter_ = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
    )
    client = admin._admin.client
    acls = {str(acl) for acl in client.describe_acls(filter_).result(20)}
    return acls, set(client.describe_user_scram_credentials().result(20))


def test_nothing_of_anybody_else_is_touched(kafka, authority, admin, tmp_path):
    """Users and ACLs with names and resources as near as can be are there before, and the same after."""
    world = World(kafka, authority, admin, tmp_path)
    prefix = names.users(world.pipeline)
    foreign = [f"{prefix}enrich", f"{prefix}enrich.c", f"{prefix[:-1]}2.enrich.a", f"x{prefix}enrich.a"]
    near = [
        Acl(user, acl.operation, acl.resource, acl.name, is_prefix=acl.is_prefix)
        for user in ("*", *foreign)
        for stage in STAGES
        for acl in world.needed(stage)
    ]
    for user in foreign:
        admin.create(user, new_password())
    admin.add(near)
    before = everything(admin)

    keep = {world.user(name) for name in STAGES}
    recorded = users.names_of(world.pipeline)
    for step in users.diff(world.pipeline, keep, admin.present(recorded), recorded).first:
        admin.take(step)
    for user in recorded:
        admin.create(user, new_password())
    admin.add([Acl(world.user("enrich"), "ALL", "TOPIC", "*")])
    middle = everything(admin)
    for step in users.diff(world.pipeline, keep, admin.present(recorded), recorded).last:
        admin.take(step)

    both = {acl for name in STAGES for generation in (1, 2) for acl in world.needed(name, generation)}
    assert admin.present(recorded) == Present(frozenset(keep), frozenset(both))
    assert users.diff(world.pipeline, keep, admin.present(recorded), recorded) == users.Changes()
    for step in users.removal(world.pipeline, admin.present(recorded), recorded):
        admin.take(step)
    assert everything(admin) == before != middle
    admin.remove(near)

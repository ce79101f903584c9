"""New credentials for stages that run: users change in place, certificates with new clients; nothing is lost, none twice."""

import json
import shutil
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import topics
from authority import Authority
from confluent_kafka import Producer
from crashing import breaking
from pauses import Pauses
from services import Service, until

from forebay.errors import Forbidden
from forebay.kafka.admin import Admin, log_in
from forebay.kafka.users import Users
from forebay.pipeline import load, names
from forebay.planning import topics as planning
from forebay.planning.credentials import rotation, users
from forebay_cli.embedded_kafka import BrokerOptions, EmbeddedKafka, Security

ROOT_PASSWORD = "canary-of-the-administrator"
REAUTHENTICATE_MS = 4_000
OUT = "forebay_records_out_total"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def kafka(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("kafka")
    trusted = folder / "trusted.pem"
    second = Authority(tmp_path_factory.mktemp("second"))
    trusted.write_bytes(authority.pem + second.pem)
    security = Security(
        key_store=authority.issue("broker"),
        trust_store=trusted,
        scram_users={"root": ROOT_PASSWORD},
        authorize=True,
        super_users=("User:root",),
        max_reauth_ms=REAUTHENTICATE_MS,
    )
    # three seconds are what brokers wait by default before a group that was empty gets its first assignment
    options = BrokerOptions(security=security, properties={"group.initial.rebalance.delay.ms": "3000"})
    with EmbeddedKafka.start(folder, options=options) as broker:
        broker.second = second
        yield broker


@pytest.fixture(scope="module")
def admin(kafka, authority):
    connection = {
        "bootstrap.servers": kafka.sasl_ssl_servers,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "root",
        "sasl.password": ROOT_PASSWORD,
        "ssl.ca.pem": authority.file.read_text(),
    }
    return Users(Admin(connection)), connection


class Mounted:
    """A Secret as the kubelet mounts it: files are links through `..data`, which is exchanged at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.version = 0
        folder.mkdir(parents=True)

    def write(self, **keys: str | bytes) -> None:
        self.version += 1
        content = self.folder / f"..{self.version}"
        content.mkdir()
        for key, value in keys.items():
            (content / key).write_bytes(value if isinstance(value, bytes) else value.encode())
        link = self.folder / "..data_tmp"
        link.symlink_to(content.name)
        link.rename(self.folder / "..data")
        for key in keys:
            if not (self.folder / key).is_symlink():
                (self.folder / key).symlink_to(f"..data/{key}")
        shutil.rmtree(self.folder / f"..{self.version - 1}", ignore_errors=True)


class Feeding:
    """Writes numbered readings all the time."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.sent = 0
        self._ended = threading.Event()
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 5})
        self._topic = topic
        self._thread = threading.Thread(target=self._feed)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        assert self._producer.flush(30) == 0
        return self.sent

    def _feed(self) -> None:
        while not self._ended.wait(0.01):
            for _ in range(10):
                reading = {"device_id": "d", "timestamp": self.sent, "temperature_c": 1.0, "humidity_pct": 2.0}
                self._producer.produce(self._topic, json.dumps(reading).encode(), f"d{self.sent % 50}")
                self.sent += 1
            self._producer.poll(0)


SIMULATOR = "simulator: {eventsPerSecond: 200}"


def pipeline(name: str, security: str, source: str) -> str:
    return f"""
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}, namespace: shop}}
spec:
  kafka: {{{security}}}
  topics:
    - {{name: {name}-raw, partitions: 4, replicationFactor: 1}}
    - {{name: {name}-out, partitions: 4, replicationFactor: 1}}
  producers:
    - name: devices
      to: {name}-out
      key: {{field: device_id}}
      source: {{{source}}}
  processors:
    - name: enrich
      from: {name}-raw
      to: {name}-out
      transforms: [{{name: avg, movingAverage: {{field: temperature_c, output: average}}}}]
  sinks:
    - {{name: store, from: {name}-raw, destination: {{duckdb: {{table: readings}}}}}}
"""


class World:
    def __init__(self, kafka, folder: Path, security: str, source: str = SIMULATOR) -> None:
        self.kafka, self.folder = kafka, folder
        name = topics.unique("p")
        self.text = pipeline(name, security, source)
        self.pipeline = load.parse(self.text, "pipeline.yaml")
        self.stages = {stage.name: stage for stage in self.pipeline.spec.stages}
        self.raw, self.out = f"{name}-raw", f"{name}-out"
        plain = Admin({"bootstrap.servers": kafka.bootstrap_servers})
        observed = plain.observe(planning.names_of(self.pipeline))
        for action in planning.diff(planning.wanted(self.pipeline, observed), observed).actions:
            plain.apply(action)
        self.secrets = folder / "secrets"

    def mounted(self, name: str) -> Mounted:
        return Mounted(self.secrets / name)

    def service(self, stage: str, folder: Path | None = None) -> Service:
        kind = type(self.stages[stage]).__name__.lower()
        return Service(folder or self.folder, self.text, stage, kind, None, FOREBAY_SECRETS=str(self.secrets))

    def times_each_came_out(self) -> Counter:
        return Counter(
            json.loads(message.value())["timestamp"] for message in topics.read(self.kafka.bootstrap_servers, self.out)
        )


def managed(kafka) -> str:
    return (
        f'bootstrapServers: "{kafka.sasl_ssl_servers}", tls: {{caSecretRef: {{name: kafka-ca}}}}, '
        "sasl: {users: Managed}, adminSecretRef: {name: kafka-admin}"
    )


class Rotating:
    """Does what the operator does to the user of one stage."""

    def __init__(self, world: World, admin, authority, stage: str) -> None:
        self.world, self.stage = world, world.stages[stage]
        self.users, self.connection = admin
        self.mounted = world.mounted(names.login_secret(world.pipeline, self.stage))
        world.mounted("kafka-ca").write(**{"ca.crt": authority.pem})
        self.password = ""

    def user(self, generation: int) -> str:
        return names.user(self.world.pipeline, self.stage, generation)

    def issue(self, generation: int) -> None:
        user = self.user(generation)
        self.users.add(users.needed(self.world.pipeline, self.stage, user))
        keys = self.users.issue(user, generation, self.connection)
        self.password = keys["password"]
        self.mounted.write(**keys)

    def is_used(self, service: Service, generation: int) -> bool:
        secret = names.login_secret(self.world.pipeline, self.stage)
        return service.metric("forebay_credential_generation", secret=secret) == generation


@pytest.mark.parametrize("stage", ["enrich", "store", "devices"])
def test_a_user_changes_in_place_under_load(kafka, authority, admin, tmp_path, stage):
    """Two times round, each old user deleted; connections authenticate anew in between, and new clients are made."""
    world = World(kafka, tmp_path, managed(kafka))
    rotating = Rotating(world, admin, authority, stage)
    rotating.issue(1)
    with world.service(stage) as service, Feeding(kafka.bootstrap_servers, world.raw) as feeding:
        until(lambda: service.metric(OUT) > 0, what="records flow")
        pauses = Pauses(lambda: service.metric(OUT))
        pauses.start()
        for generation in (2, 3):
            rotating.issue(generation)
            until(lambda generation=generation: rotating.is_used(service, generation), what="the new user is in use")
            rotating.users.delete(rotating.user(generation - 1))
            time.sleep(2.5 * REAUTHENTICATE_MS / 1000)
        longest_s = pauses.end()
        sent = feeding.end()
        if stage != "devices":
            until(lambda: service.metric("forebay_records_in_total") == sent, what="everything is processed")
        assert service.metric("forebay_credential_rotations_total", way="in-place") == 2
        assert service.metric("forebay_assigned_partitions") == (0 if stage == "devices" else 4)
        assert service.log().count('"event": "partitions assigned"') <= 1
        assert longest_s < 5
        assert service.stop() == 0
        assert not any(password in service.log() for password in (rotating.password, ROOT_PASSWORD))
    if stage == "enrich":
        assert world.times_each_came_out() == Counter(range(sent))


BURST, BURSTS, PAUSE_S = 50, 3, 10


def positions(world: World) -> list[int]:
    """How many events the source had sent by each of its commits, in their order."""
    (stage,) = world.pipeline.spec.producers
    topic = names.positions_topic(world.pipeline, stage)
    return [json.loads(each.value())["events"] for each in topics.read(world.kafka.bootstrap_servers, topic)]


def test_a_source_that_wakes_up_with_a_new_login_goes_on_where_its_successor_is(kafka, authority, admin, tmp_path):
    """Making a client of the new login, it fences the successor: what that one has sent would be sent again otherwise.

    The data pauses after each burst. The older process is frozen in the first pause, as its login has just changed.
    """
    recorded = tmp_path / "recorded.ndjson"
    times = [burst * PAUSE_S * 1000 for burst in range(BURSTS) for _ in range(BURST)]
    readings = [{"device_id": "d", "timestamp": number, "at": at} for number, at in enumerate(times)]
    recorded.write_text("".join(json.dumps(reading) + "\n" for reading in readings))
    source = f'file: {{path: "{recorded}", pace: {{field: at}}}}'
    world = World(kafka, tmp_path, managed(kafka), source)
    rotating = Rotating(world, admin, authority, "devices")
    rotating.issue(1)
    older = breaking(world.service("devices"), ">forebay.kafka.clients:Login.change", 1, signal.SIGSTOP)
    with older:
        until(lambda: positions(world) == [BURST], what="the first burst is sent")
        rotating.issue(2)
        until(older.is_frozen, what="it is frozen")
        with world.service("devices", tmp_path / "successor") as successor:
            until(lambda: positions(world) == [BURST, 2 * BURST], what="the successor sends the second burst")
            older.signal(signal.SIGCONT)
            assert successor.wait() == 1
            assert '"error": "Fenced"' in successor.log()
        until(lambda: '"event": "completed"' in older.log(), what="everything is sent")
        assert positions(world) == [BURST, 2 * BURST, 3 * BURST]
        assert older.stop() == 0
    assert world.times_each_came_out() == Counter(range(BURSTS * BURST))


def test_a_processor_that_wakes_up_with_a_new_login_takes_nothing_from_its_successor(kafka, authority, admin, tmp_path):
    """Frozen with records in hand before it makes a client of the new login, it fences the successor that has done them since.

    What it makes of them must not be committed: it is a member of the group no more.
    """
    world = World(kafka, tmp_path, managed(kafka))
    rotating = Rotating(world, admin, authority, "enrich")
    rotating.issue(1)
    replacing = "<forebay.kafka.producer:TransactionalProducer.replace"
    older = breaking(world.service("enrich"), replacing, 1, signal.SIGSTOP)
    group = names.group_id(world.pipeline, world.stages["enrich"])
    with older, Feeding(kafka.bootstrap_servers, world.raw) as feeding:
        until(lambda: older.metric(OUT) > 0, what="records flow")
        rotating.issue(2)
        until(older.is_frozen, what="it is frozen")
        with world.service("enrich", tmp_path / "successor") as successor:
            until(lambda: successor.metric(OUT) > 2_000, what="the successor works")
            older.signal(signal.SIGCONT)
            assert successor.wait() == 1
            assert '"error": "Fenced"' in successor.log()
        sent = feeding.end()
        until(lambda: topics.lag(kafka.bootstrap_servers, group, world.raw) == 0, what="everything is processed")
        assert older.stop() == 0
    assert world.times_each_came_out() == Counter(range(sent))


WRONG = {
    "a password that Kafka does not know": ({"password": "canary-wrong"}, "refuses the login"),
    "a user that Kafka does not know": ({"username": "nobody-at-all"}, "refuses the login"),
    "no password": ({"password": None}, "key 'password' of Secret"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_login_that_does_not_work_never_replaces_one_that_does(kafka, authority, admin, tmp_path, wrong):
    changed, complaint = WRONG[wrong]
    world = World(kafka, tmp_path, managed(kafka))
    rotating = Rotating(world, admin, authority, "enrich")
    rotating.issue(1)
    right = {"username": rotating.user(1), "password": rotating.password, "generation": "1"}
    with world.service("enrich") as service, Feeding(kafka.bootstrap_servers, world.raw):
        until(lambda: service.metric(OUT) > 0, what="records flow")
        keys = {key: value for key, value in {**right, "generation": "9", **changed}.items() if value is not None}
        for gone in right.keys() - keys.keys():
            (rotating.mounted.folder / gone).unlink()
        rotating.mounted.write(**keys)
        until(lambda: complaint in service.log(), what="it says why")
        before = service.metric(OUT)
        until(lambda: service.metric(OUT) > before, what="it works on")
        assert rotating.is_used(service, 1)
        rotating.issue(2)
        until(lambda: rotating.is_used(service, 2), what="the right one is used", deadline_s=30)
        assert service.log().count('"event": "started"') == 1
        assert "canary" not in service.log()


def test_a_replica_works_on_without_its_secrets(kafka, authority, admin, tmp_path):
    world = World(kafka, tmp_path, managed(kafka))
    rotating = Rotating(world, admin, authority, "enrich")
    rotating.issue(1)
    with world.service("enrich") as service, Feeding(kafka.bootstrap_servers, world.raw):
        until(lambda: service.metric(OUT) > 0, what="records flow")
        shutil.rmtree(world.secrets)
        until(lambda: "the credentials in use stay" in service.log(), what="it says so")
        before = service.metric(OUT)
        until(lambda: service.metric(OUT) > before + 500, what="it works on")


class Certified:
    """A stage that logs in by certificate. The user keeps its name, whoever issues the certificate."""

    def __init__(self, kafka, admin, authority, folder: Path) -> None:
        security = (
            f'bootstrapServers: "{kafka.ssl_servers}", tls: {{caSecretRef: {{name: kafka-ca}}, '
            "clientCertificateSecretRef: {name: client}}"
        )
        self.world = World(kafka, folder, security)
        self.authority = self.world.mounted("kafka-ca")
        self.client = self.world.mounted("client")
        self.authority.write(**{"ca.crt": authority.pem})
        self.issue(authority)
        for stage in ("enrich", "store"):
            admin[0].add(users.needed(self.world.pipeline, self.world.stages[stage], "CN=client"))

    def issue(self, authority: Authority) -> None:
        pair = authority.pair()
        self.client.write(**{"tls.crt": pair.certificate, "tls.key": pair.private_key})

    def times_renewed(self, service: Service) -> float:
        return service.metric("forebay_credential_rotations_total", way="new-clients")


def threads(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.split("Threads:")[1].split()[0])


@pytest.mark.parametrize("stage", ["enrich", "store"])
def test_certificates_change_with_new_clients_under_load(kafka, authority, admin, tmp_path, stage):
    """A new certificate, a bundle of two authorities, a certificate of the second one: one process, every event once."""
    certified = Certified(kafka, admin, authority, tmp_path)
    changes = (
        lambda: certified.issue(authority),
        lambda: certified.authority.write(**{"ca.crt": authority.pem + kafka.second.pem}),
        lambda: certified.issue(kafka.second),
    )
    with certified.world.service(stage) as service, Feeding(kafka.bootstrap_servers, certified.world.raw) as feeding:
        until(lambda: service.metric(OUT) > 0, what="records flow")
        pauses = Pauses(lambda: service.metric(OUT))
        pauses.start()
        counts = []
        for times, change in enumerate(changes, 1):
            change()
            until(lambda times=times: certified.times_renewed(service) == times, what="new clients are made")
            before = service.metric(OUT)
            until(lambda before=before: service.metric(OUT) > before, what="it works on")
            time.sleep(3)
            counts.append(threads(service))
        longest_s = pauses.end()
        sent = feeding.end()
        until(lambda: service.metric("forebay_records_in_total") == sent, what="everything is processed")
        print(f"longest pause of {stage}: {longest_s:.2f} s; threads {counts}")
        assert service.metric("forebay_certificate_expiry_timestamp_seconds", secret="client") > time.time()
        assert service.stop() == 0
    assert longest_s < 5 + 3
    assert max(counts) - min(counts) <= 3
    if stage == "enrich":
        assert certified.world.times_each_came_out() == Counter(range(sent))


def test_a_certificate_that_does_not_work_never_replaces_one_that_does(kafka, authority, admin, tmp_path):
    certified = Certified(kafka, admin, authority, tmp_path)
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger")
    with certified.world.service("enrich") as service, Feeding(kafka.bootstrap_servers, certified.world.raw):
        until(lambda: service.metric(OUT) > 0, what="records flow")
        good, other = authority.pair(), authority.pair()
        for name, change in {
            "a key of another certificate": lambda: certified.client.write(
                **{"tls.crt": good.certificate, "tls.key": other.private_key}
            ),
            "no certificate at all": lambda: certified.client.write(**{"tls.crt": "canary", "tls.key": "canary"}),
            "an authority that did not sign the broker's": lambda: certified.authority.write(
                **{"ca.crt": stranger.pem}
            ),
        }.items():
            said = service.log().count("the credentials in use stay")
            change()
            until(
                lambda said=said: service.log().count("the credentials in use stay") > said,
                what=f"it complains about {name}",
                deadline_s=40,
            )
            before = service.metric(OUT)
            until(lambda before=before: service.metric(OUT) > before, what="it works on")
            if name.startswith("no"):
                certified.issue(authority)
                until(lambda: certified.times_renewed(service) == 1, what="the right one is used", deadline_s=60)
        assert service.log().count('"event": "started"') == 1
        assert "canary" not in service.log()


def test_the_plan_of_a_rotation_is_carried_out_under_load(kafka, authority, admin, tmp_path):
    """Planned and acted on round by round as an operator does it: made, replaced on demand, the former one refused."""
    world = World(kafka, tmp_path, managed(kafka))
    rotating = Rotating(world, admin, authority, "enrich")
    name = names.login_secret(world.pipeline, rotating.stage)
    manager, connection = admin
    recorded, issued, asked, now_s = frozenset(), None, "", 1_000_000.0
    spec = world.pipeline.spec.model_copy(update={"producers": (), "sinks": ()})
    pipeline = world.pipeline.model_copy(update={"spec": spec})

    def act(service: Service | None) -> list[str]:
        nonlocal recorded, issued
        generation = service and service.metric("forebay_credential_generation", secret=name)
        seen = rotation.Seen(
            present=manager.present(users.names_of(pipeline, recorded)),
            recorded=recorded,
            stages={"enrich": rotation.StageSeen(issued=issued, pods={"enrich-0": generation} if service else {})},
            now_s=now_s,
            asked=asked,
        )
        decided = rotation.plan(pipeline, seen)
        assert decided.problems == ()
        for step in decided.steps:
            match step:
                case users.RememberUsers(names_):
                    recorded = names_
                case rotation.Issue(_, user, generation, asked_):
                    rotating.mounted.write(**manager.issue(user, generation, connection))
                    issued = rotation.Issued(generation, now_s, asked_)
                case _:
                    manager.take(step)
        return [type(step).__name__ for step in decided.steps]

    assert act(None) == ["RememberUsers", "AddAcls", "Issue"]
    assert act(None) == []
    former = {f"sasl.{key}": (rotating.mounted.folder / key).read_text() for key in ("username", "password")}
    with world.service("enrich") as service, Feeding(kafka.bootstrap_servers, world.raw) as feeding:
        until(lambda: service.metric(OUT) > 0, what="records flow")
        asked = "today"
        assert act(service) == ["Issue"]
        assert act(service) == []
        until(lambda: rotating.is_used(service, 2), what="the pod has moved")
        assert act(service) == []
        now_s += rotation.KEEP_S
        assert act(service) == ["DeleteUser"]
        assert act(service) == []
        with pytest.raises(Forbidden, match="refuses the login"):
            log_in({**connection, **former}, timeout_s=0)
        time.sleep(1.5 * REAUTHENTICATE_MS / 1000)
        sent = feeding.end()
        until(lambda: service.metric("forebay_records_in_total") == sent, what="everything is processed")
        assert service.stop() == 0
    assert world.times_each_came_out() == Counter(range(sent))
    for step in users.removal(pipeline, manager.present(users.names_of(pipeline, recorded)), recorded):
        manager.take(step)
    assert manager.present(users.names_of(pipeline)) == users.Present(frozenset(), frozenset())

"""The embedded broker with real parts: a real Kafka, real processes killed, a real (loopback) repository of jars."""

import functools
import gc
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from authority import Authority
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # they are its documented names
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from forebay_cli.embedded_kafka import BrokerOptions, EmbeddedKafka, EmbeddedKafkaError, Security, ensure_installed
from forebay_cli.embedded_kafka.broker import choose_ports
from forebay_cli.embedded_kafka.install import LOCK_FILE, Jar, parse_lock
from forebay_cli.embedded_kafka.properties import Ports

# Part of the jars is enough to try what an installation does.
FEW_JARS = 4

Config = dict[str, Any]


# --- clients ---------------------------------------------------------------------------------------------------------


def create_topic(bootstrap: str, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})  # its results end with it
    admin.create_topics([NewTopic(name, 1)])[name].result(timeout=20)


def topics(bootstrap: str) -> set[str]:
    return set(AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=20).topics)


def write_in_transactions(config: Config, topic: str) -> None:
    producer = Producer({**config, "transactional.id": f"{topic}.writer"})
    producer.init_transactions(20)
    for value, keep in ((b"aborted", False), (b"committed", True)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(20)
        producer.commit_transaction(20) if keep else producer.abort_transaction(20)


def read_one(config: Config, topic: str) -> bytes | None:
    consumer = Consumer({**config, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        message = consumer.poll(20)
        return None if message is None or message.error() else message.value()
    finally:
        consumer.close()


def refusal(config: Config) -> set[int]:
    """Return the codes of the errors a client meets while it fails to connect."""
    codes: set[int] = set()
    watched: Config = {**config, "error_cb": lambda error: codes.add(error.code())}
    client = AdminClient(watched)
    with pytest.raises(KafkaException):
        client.list_topics(timeout=2)
    client.poll(0)
    return codes


def wait_until_gone(pid: int, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there after {seconds} s")


# --- one broker ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    with EmbeddedKafka.start(tmp_path_factory.mktemp("kafka, plain")) as running:
        yield running


def test_transactions_work_and_topics_do_not_make_themselves(broker: EmbeddedKafka) -> None:
    config: Config = {"bootstrap.servers": broker.bootstrap_servers}
    create_topic(broker.bootstrap_servers, "events")

    write_in_transactions(config, "events")

    assert read_one(config, "events") == b"committed"
    AdminClient(config).list_topics("never-created", timeout=20)
    assert "never-created" not in topics(broker.bootstrap_servers)


def test_a_terminal_interrupt_does_not_reach_java(broker: EmbeddedKafka) -> None:
    assert os.getsid(broker.pid) != os.getsid(0)
    assert os.getpgid(broker.pid) != os.getpgid(0)


def test_a_folder_in_use_is_refused_and_its_owner_named(broker: EmbeddedKafka) -> None:
    with pytest.raises(EmbeddedKafkaError, match=f"in use by a running Kafka, started by process {os.getpid()}: stop"):
        EmbeddedKafka.start(broker.folder)
    assert broker.is_alive()


def test_restarted_on_the_same_folder_it_keeps_cluster_and_topics_on_other_ports(tmp_path: Path) -> None:
    with EmbeddedKafka.start(tmp_path) as first:
        first_address = first.bootstrap_servers
        create_topic(first_address, "kept")
        identity = AdminClient({"bootstrap.servers": first_address}).list_topics(timeout=20).cluster_id
    assert not first.is_alive()

    with EmbeddedKafka.start(tmp_path) as second:
        metadata = AdminClient({"bootstrap.servers": second.bootstrap_servers}).list_topics(timeout=20)

        assert "kept" in metadata.topics
        assert metadata.cluster_id == identity
        assert second.bootstrap_servers != first_address
        assert [f"{b.host}:{b.port}" for b in metadata.brokers.values()] == [second.bootstrap_servers]


def test_killed_it_comes_back_on_the_same_ports_with_its_data(tmp_path: Path) -> None:
    with EmbeddedKafka.start(tmp_path) as kafka:
        address, pid = kafka.bootstrap_servers, kafka.pid
        create_topic(address, "kept")

        kafka.kill()
        assert not kafka.is_alive()
        wait_until_gone(pid)
        kafka.restart()

        assert kafka.bootstrap_servers == address
        assert kafka.pid != pid
        assert "kept" in topics(address)


# --- never orphaned --------------------------------------------------------------------------------------------------

CALLER = """
import os, sys, time
from pathlib import Path
from forebay_cli.embedded_kafka import EmbeddedKafka
kafka = EmbeddedKafka.start(Path(sys.argv[1]))
if sys.argv[2] == "fork" and os.fork() == 0:
    time.sleep(60)  # a worker that holds copies of everything its parent had open
print(kafka.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("variant", ["alone", "fork"])
def test_killing_the_caller_ends_java(tmp_path: Path, variant: str) -> None:
    with subprocess.Popen([sys.executable, "-c", CALLER, tmp_path, variant], stdout=subprocess.PIPE) as caller:
        assert caller.stdout
        java = int(caller.stdout.readline())
        workers = psutil.Process(caller.pid).children()
        caller.kill()
        wait_until_gone(java)
        for worker in workers:
            if worker.is_running():
                worker.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's parent-death signal")
def test_killing_the_guard_ends_java(tmp_path: Path) -> None:
    with EmbeddedKafka.start(tmp_path) as kafka:
        guard = psutil.Process(kafka.pid).parent()
        assert guard is not None

        guard.send_signal(signal.SIGKILL)

        wait_until_gone(kafka.pid)
        assert not kafka.is_alive()


def test_ending_the_guard_in_order_stops_java_in_order(tmp_path: Path) -> None:
    with EmbeddedKafka.start(tmp_path) as kafka:
        guard = psutil.Process(kafka.pid).parent()
        assert guard is not None
        guard.terminate()
        wait_until_gone(kafka.pid)
    assert "shut down completed" in kafka.log_file.read_text()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            EmbeddedKafkaError, match=rf"^port {port} on 127.0.0.1 is taken by another program: stop it"
        ):
            EmbeddedKafka.start(tmp_path, options=BrokerOptions(port=port))


def test_a_port_taken_after_it_was_chosen_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others: list[socket.socket] = []

    def choose_and_lose(options: BrokerOptions) -> Ports:
        ports = choose_ports(options)
        if not others:
            others.append(socket.create_server(("127.0.0.1", ports.plain)))
        return ports

    monkeypatch.setattr("forebay_cli.embedded_kafka.broker.choose_ports", choose_and_lose)
    with EmbeddedKafka.start(tmp_path) as kafka, others[0] as other:
        assert kafka.bootstrap_servers != f"127.0.0.1:{other.getsockname()[1]}"
        assert topics(kafka.bootstrap_servers) == set()


def test_a_port_lost_by_a_stopped_broker_is_one_clear_line(tmp_path: Path) -> None:
    with EmbeddedKafka.start(tmp_path) as kafka:
        kafka.kill()
        port = int(kafka.bootstrap_servers.split(":")[1])
        with socket.create_server(("127.0.0.1", port)), pytest.raises(EmbeddedKafkaError) as refused:
            kafka.restart()
    assert str(refused.value).startswith(f"port {port} on 127.0.0.1 is taken by another program: stop it")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedKafkaError, match=r"GiB of disk free in .*Kafka needs 1048576.0 GiB: free some space"):
        EmbeddedKafka.start(tmp_path, options=BrokerOptions(min_free_disk_bytes=1 << 50))
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedKafkaError, match=r"MiB of memory available, Kafka needs 100000256 MiB: close other"):
        EmbeddedKafka.start(tmp_path, options=BrokerOptions(heap_mebibytes=100_000_000))


def test_a_broker_that_ends_during_its_start_says_why(tmp_path: Path) -> None:
    options = BrokerOptions(properties={"log.retention.check.interval.ms": "0"})
    EmbeddedKafka.start(tmp_path).stop()
    with pytest.raises(EmbeddedKafkaError) as refused:
        EmbeddedKafka.start(tmp_path, options=options)
    assert "Invalid value 0 for configuration log.retention.check.interval.ms" in str(refused.value)
    assert str(tmp_path / "broker.log") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_start_that_takes_too_long_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedKafkaError, match=r"did not serve within 0\.1 s"):
        EmbeddedKafka.start(tmp_path, options=BrokerOptions(start_timeout_seconds=0.1))
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedKafkaError, match=f"cannot write to the broker's folder {tmp_path}/file/kafka: "):
        EmbeddedKafka.start(tmp_path / "file" / "kafka")


# --- secured listeners -----------------------------------------------------------------------------------------------


PASSWORD = 'p,a"s]s\\w=ord'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[EmbeddedKafka]:
    security = Security(
        key_store=authority.issue("broker"),
        trust_store=authority.file,
        plain_users={"paula": PASSWORD},
        scram_users={"sam": PASSWORD},
        authorize=True,
    )
    folder = tmp_path_factory.mktemp("secured")
    with EmbeddedKafka.start(folder, options=BrokerOptions(security=security)) as running:
        create_topic(running.bootstrap_servers, "allowed")
        rules = [
            AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
            for user in ("paula", "sam", "CN=client")
            for kind, name, operation in (
                (ResourceType.TOPIC, "allowed", AclOperation.ALL),
                (ResourceType.TRANSACTIONAL_ID, "allowed.writer", AclOperation.ALL),
            )
        ]
        admin = AdminClient({"bootstrap.servers": running.bootstrap_servers})
        for made in admin.create_acls(rules).values():
            made.result(timeout=20)
        yield running


def sasl(secured: EmbeddedKafka, authority: Authority, mechanism: str, user: str, password: str) -> Config:
    return {
        "bootstrap.servers": secured.sasl_ssl_servers,
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(authority.file),
        "sasl.mechanism": mechanism,
        "sasl.username": user,
        "sasl.password": password,
    }


@pytest.mark.parametrize(
    ("mechanism", "user"), [("PLAIN", "paula"), ("SCRAM-SHA-256", "sam"), ("SCRAM-SHA-512", "sam")]
)
def test_a_user_with_an_acl_writes_and_a_wrong_password_does_not(
    secured: EmbeddedKafka, authority: Authority, mechanism: str, user: str
) -> None:
    write_in_transactions(sasl(secured, authority, mechanism, user, PASSWORD), "allowed")

    assert KafkaError._AUTHENTICATION in refusal(sasl(secured, authority, mechanism, user, "wrong"))


def test_a_client_certificate_names_its_owner_and_none_is_nobody(secured: EmbeddedKafka, authority: Authority) -> None:
    owner = authority.issue("client")
    config: Config = {
        "bootstrap.servers": secured.ssl_servers,
        "security.protocol": "SSL",
        "ssl.ca.location": str(authority.file),
    }

    write_in_transactions({**config, "ssl.certificate.location": str(owner), "ssl.key.location": str(owner)}, "allowed")

    assert topics(secured.bootstrap_servers) >= {"allowed"}
    certificate_less = AdminClient(config).list_topics(timeout=20)
    assert "allowed" in certificate_less.topics  # connected: the certificate is optional; its principal is ANONYMOUS


def test_a_denied_topic_is_refused(secured: EmbeddedKafka, authority: Authority) -> None:
    create_topic(secured.bootstrap_servers, "denied")
    reports: list[KafkaError | None] = []
    producer = Producer(sasl(secured, authority, "PLAIN", "paula", PASSWORD))
    producer.produce("denied", b"x", on_delivery=lambda error, _message: reports.append(error))
    producer.flush(20)
    assert [report.code() for report in reports if report] == [KafkaError.TOPIC_AUTHORIZATION_FAILED]


def test_no_password_is_readable_by_others(secured: EmbeddedKafka) -> None:
    assert (secured.folder / "server.properties").stat().st_mode & 0o077 == 0
    assert not list(secured.folder.glob("format.*"))
    assert not any(PASSWORD in part for part in psutil.Process(secured.pid).cmdline())
    assert PASSWORD not in secured.log_file.read_text()


# --- installation ----------------------------------------------------------------------------------------------------


class Repository:
    """A Maven repository on loopback that jgo is configured to use, with the jars this machine has already."""

    def __init__(self, root: Path, installed: Path, jars: tuple[Jar, ...]) -> None:
        self.root = root
        for jar in jars:
            self.path(jar).parent.mkdir(parents=True, exist_ok=True)
            self.path(jar).write_bytes((installed / jar.file_name).read_bytes())

    def path(self, jar: Jar) -> Path:
        group, artifact, version = jar.coordinate.split(":")
        return self.root.joinpath(*group.split("."), artifact, version, jar.file_name)


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def few_jars(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Jar, ...]:
    """Let the lock name only the smallest jars."""
    lines = sorted(LOCK_FILE.read_text().splitlines()[2:], key=lambda line: int(line.split()[1]))[:FEW_JARS]
    lock = tmp_path / "few.lock"
    lock.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("forebay_cli.embedded_kafka.install.LOCK_FILE", lock)
    monkeypatch.setattr("forebay_cli.embedded_kafka.install.ATTEMPTS", 1)
    return parse_lock(lock.read_text())


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Repository]:
    installed = ensure_installed()
    jars = parse_lock(LOCK_FILE.read_text())
    served = Repository(tmp_path / "repository", installed, jars)
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(QuietFiles, directory=str(served.root))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = tmp_path / "jgo.conf"
    settings.write_text(f"[repositories]\ncentral = http://127.0.0.1:{server.server_port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(settings))
    monkeypatch.setenv("FOREBAY_CACHE", str(tmp_path / "cache"))
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def folders(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def test_an_installation_comes_from_the_configured_mirror_once(
    repository: Repository, few_jars: tuple[Jar, ...], cache: Path
) -> None:
    told: list[str] = []

    installed = ensure_installed(told.append)
    again = ensure_installed(lambda text: pytest.fail(f"nothing was to be done, but: {text}"))

    assert told[-1] == f"downloading Kafka 4.1.1: {FEW_JARS} of {FEW_JARS} jars"
    assert installed == again
    assert folders(cache) == [installed]
    assert {path.name for path in installed.iterdir()} == {jar.file_name for jar in few_jars}


def test_a_tampered_jar_is_refused_and_nothing_is_installed(
    repository: Repository, few_jars: tuple[Jar, ...], cache: Path
) -> None:
    victim = repository.path(few_jars[1])
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)

    with pytest.raises(EmbeddedKafkaError, match=rf"^refused {few_jars[1].coordinate}: its SHA-256 is .* try again"):
        ensure_installed()
    assert folders(cache) == []


def test_an_installation_that_lost_a_jar_is_made_again(repository: Repository, few_jars: tuple[Jar, ...]) -> None:
    installed = ensure_installed()
    (installed / few_jars[0].file_name).write_bytes(b"half")

    assert ensure_installed() == installed
    assert (installed / few_jars[0].file_name).stat().st_size == few_jars[0].size


# jgo leaves the answer to a request that failed to the garbage collector: collect it here, not in another test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_missing_jar_is_named_with_what_to_do(repository: Repository, few_jars: tuple[Jar, ...], cache: Path) -> None:
    repository.path(few_jars[2]).unlink()
    with pytest.raises(EmbeddedKafkaError) as failed:
        ensure_installed()
    assert str(failed.value).startswith(
        f"cannot download {few_jars[2].coordinate} (no repository has it): the first run"
    )
    assert "--bootstrap HOST:PORT" in str(failed.value)
    assert "127.0.0.1" not in str(failed.value)
    assert folders(cache) == []
    del failed
    gc.collect()


def test_no_network_is_told_in_one_line(
    few_jars: tuple[Jar, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:  # bound, never listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        settings = tmp_path / "jgo.conf"
        settings.write_text(f"[repositories]\ncentral = http://me:secret@127.0.0.1:{closed.getsockname()[1]}\n")
        monkeypatch.setenv("JGO_CONFIG_FILE", str(settings))
        monkeypatch.setenv("FOREBAY_CACHE", str(tmp_path / "cache"))
        with pytest.raises(EmbeddedKafkaError, match=r"\(ConnectionError\): the first run needs the network") as failed:
            ensure_installed()
    assert "secret" not in str(failed.value)
    assert "\n" not in str(failed.value)


def test_two_installations_at_once_make_one(repository: Repository, cache: Path) -> None:
    command = [sys.executable, "-m", "forebay_cli.embedded_kafka", "install"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in both]

    assert [process.returncode for process in both] == [0, 0], results
    told = "".join(errors for _, errors in results)
    assert told.count("46 of 46 jars") == 1
    assert "waiting for another process" in told
    assert [str(folder) for folder in folders(cache)] == [results[0][0].strip()] == [results[1][0].strip()]

"""Every way to connect to Kafka, with credentials from files: the command and a service's real process."""

import subprocess
import sys
from pathlib import Path

import pytest
import topics
from authority import Authority
from services import Service, until

from forebay_cli.embedded_kafka import EmbeddedKafka, Security

PASSWORD = 'canary-p,a"s]s\\word'


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(tmp_path_factory, authority):
    security = Security(
        key_store=authority.issue("broker"),
        trust_store=authority.file,
        plain_users={"paula": PASSWORD},
        scram_users={"sam": PASSWORD},
    )
    from forebay_cli.embedded_kafka import BrokerOptions

    options = BrokerOptions(security=security)
    with EmbeddedKafka.start(tmp_path_factory.mktemp("secured"), options=options) as broker:
        yield broker


def secret(folder: Path, name: str, **keys: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    for key, value in keys.items():
        (folder / name / key.replace("_", ".")).write_text(value)


@pytest.fixture
def secrets(tmp_path, authority):
    """DIR/<secret>/<key>, as Kubernetes mounts them."""
    folder = tmp_path / "secrets"
    secret(folder, "kafka-ca", ca_crt=authority.file.read_text())
    for user in ("paula", "sam"):
        secret(folder, user, username=user, password=PASSWORD + "\n")
    pem = authority.issue("client").read_text()
    key, certificate = pem.split("-----BEGIN CERTIFICATE")
    secret(folder, "client", tls_key=key, tls_crt="-----BEGIN CERTIFICATE" + certificate)
    return folder


def as_strimzi_writes_them(secrets: Path) -> None:
    """Strimzi's operator names the keys of a certificate otherwise, and has no key for a user's name."""
    (secrets / "sam" / "username").unlink()
    for ending in ("crt", "key"):
        (secrets / "client" / f"tls.{ending}").rename(secrets / "client" / f"user.{ending}")


CA = "tls: {caSecretRef: {name: kafka-ca}}"
WAYS = {
    "plaintext": ("bootstrap_servers", ""),
    "TLS": ("ssl_servers", CA),
    "mutual TLS": ("ssl_servers", CA[:-1] + ", clientCertificateSecretRef: {name: client}}"),
    "PLAIN": ("sasl_ssl_servers", CA + ", sasl: {mechanism: PLAIN, secretRef: {name: paula}}"),
    "SCRAM-SHA-256": ("sasl_ssl_servers", CA + ", sasl: {mechanism: SCRAM-SHA-256, secretRef: {name: sam}}"),
    "SCRAM-SHA-512": ("sasl_ssl_servers", CA + ", sasl: {mechanism: SCRAM-SHA-512, secretRef: {name: sam}}"),
}


def pipeline(secured, way: str, name: str) -> str:
    servers, security = WAYS[way]
    kafka = f"bootstrapServers: {getattr(secured, servers)}" + (f", {security}" if security else "")
    return f"""
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  kafka: {{{kafka}}}
  topics:
    - {{name: {name}-raw, partitions: 2, replicationFactor: 1, config: {{min.insync.replicas: "1"}}}}
    - {{name: {name}-out, partitions: 2, replicationFactor: 1, config: {{min.insync.replicas: "1"}}}}
  producers:
    - name: devices
      to: {name}-raw
      key: {{field: device_id}}
      source: {{simulator: {{records: 500}}}}
  processors:
    - name: enrich
      from: {name}-raw
      to: {name}-out
      transforms: [{{name: avg, movingAverage: {{field: temperature_c, output: average}}}}]
"""


def forebay(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forebay_cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def apply(folder: Path, text: str, secrets: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "pipeline.yaml"
    file.write_text(text)
    return forebay("apply", file, "--secrets", secrets)


@pytest.mark.parametrize("way", WAYS)
def test_topics_are_applied_and_records_flow(secured, secrets, tmp_path, way):
    name = topics.unique("p")
    text = pipeline(secured, way, name)
    applied = apply(tmp_path, text, secrets)
    assert applied.returncode == 0, applied.stderr
    settings = {"FOREBAY_SECRETS": str(secrets), "FOREBAY_EXIT_WHEN_DONE": "true", "FOREBAY_LOG_LEVEL": "debug"}
    with (
        Service(tmp_path, text, "devices", "producer", None, **settings) as producer,
        Service(tmp_path, text, "enrich", "processor", None, **settings) as processor,
    ):
        assert producer.wait() == 0
        until(lambda: processor.metric("forebay_records_out_total") == 500, what="everything processed")
        seen = [Path(f"/proc/{processor.process.pid}/{file}").read_text() for file in ("environ", "cmdline")]
        seen += [producer.log(), processor.log(), applied.stdout, applied.stderr]

    assert len(topics.read(secured.bootstrap_servers, f"{name}-out")) == 500
    assert not [text for text in seen if "canary" in text]


@pytest.mark.parametrize("way", ["mutual TLS", "SCRAM-SHA-512"])
def test_secrets_that_strimzi_wrote_serve(secured, secrets, tmp_path, way):
    as_strimzi_writes_them(secrets)
    applied = apply(tmp_path, pipeline(secured, way, topics.unique("p")), secrets)

    assert applied.returncode == 0, applied.stderr


def test_a_missing_secret_is_waited_for_and_named(secured, secrets, tmp_path):
    name = topics.unique("p")
    text = pipeline(secured, "SCRAM-SHA-512", name)
    assert apply(tmp_path, text, secrets).returncode == 0
    (secrets / "sam" / "password").rename(tmp_path / "password")
    with Service(tmp_path, text, "devices", "producer", None, FOREBAY_SECRETS=str(secrets)) as producer:
        until(lambda: "key 'password' of Secret 'sam' cannot be read" in producer.log(), what="the key is named")
        assert producer.log().count("cannot be read") == 1
        (tmp_path / "password").rename(secrets / "sam" / "password")
        until(lambda: producer.metric("forebay_records_out_total") == 500, what="it goes on by itself")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda secrets, _: (secrets / "sam" / "password").write_text("wrong"), "refuses the login"),
        (
            lambda secrets, folder: (secrets / "kafka-ca" / "ca.crt").write_text(Authority(folder).file.read_text()),
            "certificate",
        ),
        (lambda secrets, _: (secrets / "sam" / "username").write_text(""), "username and sasl.password must be set"),
        (lambda secrets, _: (secrets / "sam" / "password").unlink(), "key 'password' of Secret 'sam'"),
        (lambda secrets, _: (secrets / "kafka-ca" / "ca.crt").write_text("no certificate"), "check tls"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(secured, secrets, tmp_path, change, message):
    change(secrets, tmp_path)
    applied = apply(tmp_path, pipeline(secured, "SCRAM-SHA-512", topics.unique("p")), secrets)

    assert applied.returncode == 1
    assert message in applied.stderr
    assert len(applied.stderr.strip().splitlines()) == 1, applied.stderr
    assert "canary" not in applied.stderr

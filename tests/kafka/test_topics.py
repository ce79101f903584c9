"""Topics on a real broker: observed, planned, applied, and administration's errors."""

import socket
import uuid

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from services import until
from typer.testing import CliRunner

from forebay.errors import Refused, TryLater
from forebay.kafka import admin as administration
from forebay.kafka.admin import Admin
from forebay.planning.topics import AddPartitions, AlterConfig, CreateTopic, Purpose
from forebay_cli.main import app

PIPELINE = """\
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  kafka: {{bootstrapServers: "unused:9092"}}
  topics:
    - {{name: {name}-raw, partitions: {partitions}, config: {{retention.ms: "{retention}"}}}}
    - {{name: {name}-enriched, partitions: 2}}
  producers:
    - name: devices
      to: {name}-raw
      key: {{field: device_id}}
      source: {{simulator: {{}}}}
  processors:
    - name: enrich
      from: {name}-raw
      to: {name}-enriched
      transforms:
        - name: average
          movingAverage: {{field: temperature_c, output: avg}}
"""


@pytest.fixture
def admin(kafka):
    return Admin({"bootstrap.servers": kafka.bootstrap_servers})


@pytest.fixture
def name():
    """A name of the test's own: the broker is shared."""
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
def forebay(kafka, tmp_path, name):
    """Runs a verb on the Pipeline of the test, with parts replaced."""

    def run(verb: str, **changes):
        file = tmp_path / "pipeline.yaml"
        file.write_text(PIPELINE.format(**{"name": name, "partitions": 4, "retention": 3_600_000} | changes))
        return CliRunner().invoke(app, [verb, str(file), "--bootstrap", kafka.bootstrap_servers])

    return run


def create(name, partitions=1, factor=1, **config):
    return CreateTopic(name, partitions, factor, config, Purpose.DECLARED)


def test_a_plan_changes_nothing_and_apply_does_what_it_said(forebay, admin, name):
    planned = forebay("plan")
    assert admin.observe([f"{name}-raw"]) == {f"{name}-raw": None}

    applied = forebay("apply")

    assert (planned.exit_code, applied.exit_code) == (0, 0)
    assert planned.stdout == applied.stdout
    assert f"+ create topic {name}-raw: 4 partitions, replication factor 1, retention.ms=3600000" in planned.stdout
    assert planned.stderr.splitlines() == [
        "note: replicationFactor is lowered from 3 to 1: this Kafka has 1 broker",
        "note: min.insync.replicas is lowered from 2 to 1: this Kafka has 1 broker",
    ]


def test_applied_topics_are_as_planned_and_nothing_is_left_to_do(forebay, admin, name):
    forebay("apply")
    changelog = f"default.{name}.enrich.average.v1.changelog"
    positions = f"default.{name}.devices.positions"
    observed = admin.observe([f"{name}-raw", f"{name}-raw.dlq", changelog, positions])

    assert [state.partitions for state in observed.values()] == [4, 4, 4, 1]
    assert observed[f"{name}-raw"].config["retention.ms"] == "3600000"
    assert observed[changelog].config["cleanup.policy"] == "compact"
    assert len({state.topic_id for state in observed.values()}) == 4
    assert forebay("plan").stdout == "nothing to do: the 5 topics are as the Pipeline asks\n"
    assert forebay("apply").stdout == "nothing to do: the 5 topics are as the Pipeline asks\n"


def test_configuration_is_altered_and_other_keys_are_left_alone(forebay, admin, name):
    forebay("apply")
    admin.apply(AlterConfig(f"{name}-raw", {"segment.ms": "70000"}, {}))

    changed = forebay("apply", retention=7_200_000)

    assert changed.stdout == f"~ set in topic {name}-raw: retention.ms from 3600000 to 7200000\n"
    config = admin.observe([f"{name}-raw"])[f"{name}-raw"].config
    assert (config["retention.ms"], config["segment.ms"]) == ("7200000", "70000")


def test_growing_the_input_of_keyed_state_is_refused_and_changes_nothing(forebay, admin, name):
    forebay("apply")

    grown = forebay("apply", partitions=8, retention=1)

    assert grown.exit_code == 1
    assert f"! topic {name}-raw has 4 partitions, the Pipeline asks for 8, which would move keys" in grown.stderr
    assert (
        admin.observe([f"{name}-raw"])[f"{name}-raw"].partitions,
        admin.observe([f"{name}-raw"])[f"{name}-raw"].config["retention.ms"],
    ) == (4, "3600000")


def test_a_value_that_the_broker_refuses_is_a_problem_of_the_plan(forebay, admin, name):
    refused = forebay("plan", retention="soon")

    assert refused.exit_code == 1
    assert f"! cannot create topic {name}-raw: Invalid value soon for configuration retention.ms" in refused.stderr
    assert forebay("apply", retention="soon").exit_code == 1
    assert admin.observe([f"{name}-enriched"]) == {f"{name}-enriched": None}


def test_partitions_are_added(admin, name):
    admin.apply(create(name))
    admin.apply(AddPartitions(name, 1, 3))

    assert admin.observe([name])[name].partitions == 3


def test_a_step_that_somebody_else_took_is_done(admin, name):
    admin.apply(create(name, 3))

    admin.apply(create(name, 3))
    admin.apply(AddPartitions(name, 1, 3))


def test_a_topic_that_somebody_else_made_larger_asks_for_a_new_plan(admin, name):
    admin.apply(create(name, 3))

    with pytest.raises(TryLater, match="plan again"):
        admin.apply(create(name, 2))


@pytest.mark.parametrize(
    ("action", "refusal"),
    [
        (create("x", **{"no.such": "1"}), "cannot create topic x: Unknown topic config name: no.such"),
        (create("x", factor=3), "cannot create topic x: Unable to replicate the partition 3 time"),
        (AddPartitions("no-such", 1, 2), "cannot grow topic no-such: "),
    ],
)
def test_a_dry_run_says_what_kafka_would_refuse(admin, action, refusal):
    assert admin.check(action).startswith(refusal)
    with pytest.raises(Refused):
        admin.apply(action)


def test_a_dry_run_creates_nothing(admin, name):
    assert admin.check(create(name)) is None
    assert admin.observe([name]) == {name: None}


def test_end_offsets_stop_before_an_open_transaction(kafka, admin, name):
    admin.apply(create(name))
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": name})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(name, b"1", partition=0)
    producer.flush(10)

    assert (admin.begin_offsets(name, [0]), admin.end_offsets(name, [0])) == ({0: 0}, {0: 0})
    producer.commit_transaction(10)
    # the record and the marker of the commit
    until(lambda: admin.end_offsets(name, [0]) == {0: 2}, what="the committed transaction ends at 2", deadline_s=10)


def test_offsets_of_a_group_are_none_until_it_commits(kafka, admin, name):
    admin.apply(create(name, 2))
    assert admin.committed(name, name, [0, 1]) == {0: None, 1: None}

    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": name})
    consumer.commit(offsets=[TopicPartition(name, 1, 7)], asynchronous=False)
    consumer.close()

    assert admin.committed(name, name, [0, 1]) == {0: None, 1: 7}


def test_deleted_topics_are_gone_and_deleting_again_is_no_error(admin, name):
    admin.apply(create(name))
    admin.delete_topics([name])
    admin.delete_topics([name])

    # the controller has deleted it; a broker's own picture follows a moment later
    until(lambda: admin.observe([name]) == {name: None}, what="the topic is gone")


def test_offsets_of_a_missing_topic_are_an_error(admin, name):
    with pytest.raises(TryLater, match=f"cannot read offsets of {name}"):
        admin.end_offsets(name, [0])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host.invalid:9092"])
def test_an_unreachable_broker_is_said_with_its_address(monkeypatch, address):
    monkeypatch.setattr(administration, "REQUEST_TIMEOUT_S", 1.0)

    with pytest.raises(TryLater, match=f"^cannot reach Kafka at {address} within 1 s: .*check the address") as raised:
        Admin({"bootstrap.servers": address}).brokers()
    assert "failed" in str(raised.value).lower()
    assert "ms in state" not in str(raised.value), "then every attempt would look like another cause"


def test_the_cause_stays_known_while_the_client_says_nothing_new(monkeypatch):
    monkeypatch.setattr(administration, "REQUEST_TIMEOUT_S", 1.0)
    with socket.socket() as broker:
        broker.bind(("127.0.0.1", 0))
        admin = Admin({"bootstrap.servers": f"127.0.0.1:{broker.getsockname()[1]}"})
        with pytest.raises(TryLater, match="Connection refused") as first:
            admin.brokers()
        broker.listen()  # and never answers
        with pytest.raises(TryLater) as second:
            admin.brokers()
    assert str(second.value) == str(first.value), "a stage that waits says each reason once"


def test_the_command_says_it_on_standard_error(monkeypatch, tmp_path):
    monkeypatch.setattr(administration, "REQUEST_TIMEOUT_S", 1.0)
    file = tmp_path / "p.yaml"
    file.write_text(PIPELINE.format(name="x", partitions=1, retention=1))

    result = CliRunner().invoke(app, ["plan", str(file), "--bootstrap", "127.0.0.1:1"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("forebay: cannot reach Kafka at 127.0.0.1:1")

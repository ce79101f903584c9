"""The producer service as it runs for users: a process of its own, a real broker, and what a committed reader finds."""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from services import until

from forebay.messages.headers import INGEST_TIME, SAMPLE_EVERY

PARTITIONS = 4
SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "02-weather" / "pipeline.yaml"


def murmur2(data: bytes) -> int:
    """The 32-bit hash with which Java clients choose a key's partition, as an unsigned number."""
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    result = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        result = result * multiplier & mask ^ word
    if whole < len(data):
        result = (result ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    result = (result ^ result >> 13) * multiplier & mask
    return result ^ result >> 15


def java_partition(key: bytes, partitions: int) -> int:
    return (murmur2(key) & 0x7FFFFFFF) % partitions


class Stage:
    """A Pipeline of one producer, its topics, and the processes that serve it."""

    def __init__(self, kafka, folder, name, source, **options) -> None:
        self.bootstrap = kafka.bootstrap_servers
        self.topic, self.folder, self.log = f"{name}.events", folder, folder / "log"
        self.positions = f"default.{name}.feed.positions"
        self.topic_config = options.pop("topic_config", {})
        self.processes = []
        producer = {"name": "feed", "to": self.topic, "source": source, **options}
        topic = {"name": self.topic, "partitions": PARTITIONS, "replicationFactor": 1}
        pipeline = {
            "apiVersion": "forebay.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": name},
            "spec": {
                "kafka": {"bootstrapServers": "replaced:9092"},
                "topics": [topic],
                "producers": [producer],
                "sinks": [{"name": "out", "from": self.topic, "destination": {"stdout": {}}}],
            },
        }
        (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))

    def create_topics(self):
        topics = [
            NewTopic(self.topic, PARTITIONS, 1, config=self.topic_config),
            NewTopic(self.positions, 1, 1, config={"cleanup.policy": "compact"}),
        ]
        admin = AdminClient({"bootstrap.servers": self.bootstrap})  # its results end with it
        for future in admin.create_topics(topics).values():
            future.result(20)
        return self

    def start(self, *, ordinal=0, **settings):
        environment = {
            **os.environ,
            "FOREBAY_PIPELINE": str(self.folder / "pipeline.yaml"),
            "FOREBAY_STAGE": "feed",
            "FOREBAY_ORDINAL": str(ordinal),
            "FOREBAY_BOOTSTRAP": self.bootstrap,
            "FOREBAY_HTTP_HOST": "127.0.0.1",
            "FOREBAY_HTTP_PORT": "0",
            **{f"FOREBAY_{name.upper()}": str(value) for name, value in settings.items()},
        }
        with self.log.open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "forebay_producer"], env=environment, stderr=log)
        self.processes.append(process)
        return process

    def run_to_its_end(self, **settings):
        return self.start(exit_when_done=True, **settings).wait(60)

    def logged(self, event):
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def wait_for(self, event, count=1, seconds=30):
        deadline = time.monotonic() + seconds
        while len(found := self.logged(event)) < count:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return found

    def continued_from(self, end):
        """The events behind which restarts continued, other than the first and the last."""
        return {line["events"] for line in self.logged("running")} - {0, end}

    def get(self, path):
        port = self.wait_for("started")[-1]["http_port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.read().decode()

    def metric(self, name):
        """The metric's samples, each by its `reason` or `error` label."""
        found = {}
        for labels, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", self.get("/metrics"), re.MULTILINE):
            label = re.search(r'(?:reason|error)="([^"]*)"', labels)
            found[label.group(1) if label else ""] = float(value)
        return found

    def read(self, topic=None):
        """What a committed reader finds, partition by partition."""
        topic = topic or self.topic
        settings = {"group.id": "test", "isolation.level": "read_committed", "enable.partition.eof": True}
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "auto.offset.reset": "earliest", **settings})
        partitions = len(consumer.list_topics(topic, 20).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        messages, ends = [], 0
        while ends < partitions:
            for message in consumer.consume(10_000, 0.1):
                ends += message.error() is not None
                messages += [message] if message.error() is None else []
        consumer.close()
        return messages

    def kill(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def stage(kafka, tmp_path):
    stages = []

    def make(name, source, **options):
        stages.append(Stage(kafka, tmp_path, name, source, **options))
        return stages[-1]

    yield make
    for each in stages:
        each.kill()


def simulator(**settings):
    return {"simulator": {"devices": 50, "seed": 7, **settings}}


def by_device(messages):
    """Each device's timestamps, in the order in which a consumer gets them."""
    series = defaultdict(list)
    for message in messages:
        reading = json.loads(message.value())
        series[reading["device_id"]].append(reading["timestamp"])
    return series


def every_event_is_there_once(messages, count):
    series = by_device(messages)
    assert len(messages) == count
    assert all(times == sorted(set(times)) for times in series.values()), "in order, and none twice"
    steps = {later - earlier for times in series.values() for earlier, later in itertools.pairwise(times)}
    assert len(steps) == 1, "without a gap"


def test_reference_partitioner_agrees_with_published_hashes():
    signed = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}

    assert {key: value & 0xFFFFFFFF for key, value in signed.items()} == {key: murmur2(key) for key in signed}


def test_simulated_readings_arrive_once_and_keyed_on_the_partition_of_a_java_client(stage):
    feed = stage("once", simulator(devices=500, records=20_000), key={"field": "device_id"}).create_topics()

    assert feed.run_to_its_end() == 0

    messages = feed.read()
    every_event_is_there_once(messages, 20_000)
    assert all(message.key().decode() == json.loads(message.value())["device_id"] for message in messages)
    assert all(java_partition(message.key(), PARTITIONS) == message.partition() for message in messages)
    assert len({message.key() for message in messages}) == 500


def test_one_record_in_a_thousand_carries_the_time_of_its_intake(stage):
    feed = stage("sampled", simulator(records=2 * SAMPLE_EVERY + 1), key={"field": "device_id"}).create_topics()
    before = time.time() * 1000

    assert feed.run_to_its_end() == 0

    headers = [dict(message.headers()) for message in feed.read() if message.headers()]
    assert len(headers) == 3
    assert all(before - 1000 < int(header[INGEST_TIME]) < time.time() * 1000 for header in headers)


def test_killed_again_and_again_it_neither_repeats_nor_skips_an_event(stage):
    feed = stage(
        "killed", simulator(eventsPerSecond=10_000, records=60_000), key={"field": "device_id"}
    ).create_topics()
    chance = random.Random(3)

    for kills in range(5):
        process = feed.start(exit_when_done=True)
        feed.wait_for("running", kills + 1)
        time.sleep(chance.uniform(0.05, 0.5))
        process.kill()
        process.wait()

    assert feed.run_to_its_end() == 0
    assert feed.continued_from(60_000), "kills happened on the way"
    every_event_is_there_once(feed.read(), 60_000)


def test_batches_that_wait_long_do_not_outlive_a_transaction(stage):
    feed = stage("patient", simulator(eventsPerSecond=100), batch={"maxWaitMs": 60_000}).create_topics()
    process = feed.start()
    feed.wait_for("running")

    until(
        lambda: len(feed.read(feed.positions)) >= 2, what="two transactions are committed", deadline_s=20, every_s=0.5
    )

    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_asked_to_stop_it_commits_and_a_restart_continues_there(stage):
    feed = stage(
        "stopped", simulator(eventsPerSecond=10_000, records=15_000), key={"field": "device_id"}
    ).create_topics()
    process = feed.start()
    feed.wait_for("running")
    time.sleep(0.5)

    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 0
    committed = len(feed.read())
    position = json.loads(feed.read(feed.positions)[-1].value())
    assert 0 < committed == position["events"] < 15_000
    assert feed.run_to_its_end() == 0
    every_event_is_there_once(feed.read(), 15_000)


def test_a_successor_ends_its_predecessor_and_continues_behind_it(stage):
    feed = stage("fenced", simulator(eventsPerSecond=5_000), key={"field": "device_id"}).create_topics()
    first = feed.start()
    feed.wait_for("running")
    time.sleep(0.5)

    second = feed.start()

    assert first.wait(30) == 1
    assert [line["error"] in {"Fenced", "Fatal"} for line in feed.logged("failed")] == [True], feed.log.read_text()
    time.sleep(0.5)
    second.send_signal(signal.SIGTERM)
    assert second.wait(10) == 0
    messages = feed.read()
    every_event_is_there_once(messages, len(messages))


def test_replicas_share_devices_and_records(stage):
    feed = stage("shared", simulator(records=3_001), key={"field": "device_id"}, replicas=2).create_topics()

    assert [feed.run_to_its_end(ordinal=ordinal) for ordinal in (0, 1)] == [0, 0]

    series = by_device(feed.read())
    assert sum(map(len, series.values())) == 3_001
    assert len(series) == 50


def test_a_limit_of_records_holds_over_restarts(stage):
    feed = stage("limited", simulator(), key={"field": "device_id"}).create_topics()

    assert [feed.run_to_its_end(records=1_234), feed.run_to_its_end(records=1_234)] == [0, 0]

    every_event_is_there_once(feed.read(), 1_234)


def test_it_waits_for_its_topics_and_says_so_once(stage):
    feed = stage("waiting", simulator(records=10))
    process = feed.start(exit_when_done=True)

    [waiting] = feed.wait_for("waiting")
    feed.create_topics()

    assert process.wait(30) == 0
    assert "waiting.events" in waiting["reason"]
    assert "default.waiting.feed.positions" in waiting["reason"]
    assert len(feed.read()) == 10


def test_a_file_of_json_lines_is_sent_once_and_bad_lines_are_counted_and_logged(stage, tmp_path):
    good = [json.dumps({"id": number, "text": "x" * 20}) for number in range(3_000)]
    bad = ["{", "[1]", '{"text": "no key"}', '{"id": NaN}', '{"id": null}', "\udcff"]
    lines = [*good[:1_000], *bad, "", *good[1_000:]]
    (tmp_path / "events.ndjson").write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    feed = stage("lines", {"file": {"path": "events.ndjson"}}, key={"field": "id"}).create_topics()
    process = feed.start()

    [completed] = feed.wait_for("completed")

    assert feed.get("/readyz") == "ok\n"
    assert feed.metric("forebay_source_completed") == {"": 1}
    assert feed.metric("forebay_records_in_total") == {"": 3_006}
    assert feed.metric("forebay_records_out_total") == {"": 3_000}
    assert feed.metric("forebay_undeliverable_total") == {"malformed": 4, "invalid-field": 2}
    assert feed.metric("forebay_errors_total") == {"Undeliverable": 6}
    assert (completed["events"], completed["undeliverable"]) == (3_006, 6)
    details = [line["detail"] for line in feed.logged("event not delivered")]
    assert [detail.split(":")[0] for detail in details] == [f"line {number}" for number in range(1_001, 1_007)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    messages = feed.read()
    assert Counter(message.value().decode() for message in messages) == Counter(
        json.dumps(json.loads(line), separators=(",", ":")) for line in good
    )
    assert all(message.key().decode() == str(json.loads(message.value())["id"]) for message in messages)
    assert feed.run_to_its_end() == 0
    assert len(feed.read()) == 3_000


def test_a_csv_file_is_sent_once_through_kills(stage, tmp_path):
    rows = [
        f'{number},"line one\nline ""two""",{number / 4},2024-02-29T12:00:{number % 60:02d}' for number in range(9_000)
    ]
    (tmp_path / "events.csv").write_text("\n".join(["id,text,level,at", *rows]) + "\n")
    fields = [
        {"name": "id", "type": "integer"},
        {"name": "note", "column": "text"},
        {"name": "level", "type": "number"},
        {"name": "at", "type": "timestamp"},
        {"name": "site", "constant": "north"},
    ]
    source = {"file": {"path": "events.csv", "format": "Csv", "fields": fields}}
    feed = stage("table", source, key={"field": "id"}, rateLimit=2_000).create_topics()
    for kills in range(3):
        process = feed.start()
        feed.wait_for("running", kills + 1)
        time.sleep(0.3)
        process.kill()
        process.wait()

    assert feed.run_to_its_end() == 0
    assert feed.continued_from(9_000), "kills happened on the way"

    records = sorted((json.loads(message.value()) for message in feed.read()), key=lambda record: record["id"])
    assert [record["id"] for record in records] == list(range(9_000))
    assert records[61] == {
        "id": 61,
        "note": 'line one\nline "two"',
        "level": 15.25,
        "at": 1_709_208_001_000,
        "site": "north",
    }


def test_records_that_client_or_broker_refuse_are_counted_and_all_others_arrive(stage, tmp_path):
    chance = random.Random(5)
    sizes = [100] * 200
    sizes[70] = sizes[71] = sizes[199] = 30_000  # more than the topic takes
    sizes[0] = sizes[100] = 1_040_000  # more than the client takes
    lines = [json.dumps({"id": number, "text": chance.randbytes(size // 2).hex()}) for number, size in enumerate(sizes)]
    (tmp_path / "events.ndjson").write_text("\n".join(["not JSON", *lines]))
    feed = stage(
        "refused",
        {"file": {"path": "events.ndjson"}},
        key={"field": "id"},
        delivery={"compression": "none", "batchBytes": 10_000, "timeoutMs": 1_000},
        kafkaProperties={"message.max.bytes": "1000000"},
        topic_config={"max.message.bytes": "20000"},
    ).create_topics()
    process = feed.start()

    feed.wait_for("completed", seconds=90)

    assert feed.metric("forebay_undeliverable_total") == {"malformed": 1, "too-large": 2, "rejected-by-kafka": 3}
    assert feed.metric("forebay_records_out_total") == {"": 195}
    logged = [(line["event_number"], line["reason"]) for line in feed.logged("event not delivered")]
    assert sorted(logged) == [
        (0, "malformed"),
        (1, "too-large"),
        (71, "rejected-by-kafka"),
        (72, "rejected-by-kafka"),
        (101, "too-large"),
        (200, "rejected-by-kafka"),
    ]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    arrived = sorted(json.loads(message.value())["id"] for message in feed.read())
    assert arrived == sorted(set(range(200)) - {0, 70, 71, 100, 199})


def test_a_file_that_changed_is_refused_for_good(stage, tmp_path):
    path = tmp_path / "events.ndjson"
    path.write_text('{"id": 1}\n' * 10)
    feed = stage("changed", {"file": {"path": "events.ndjson"}}).create_topics()
    assert feed.run_to_its_end() == 0

    path.write_text('{"id": 2}\n' * 10)

    assert feed.run_to_its_end() == 78
    assert "is not the file it was" in feed.logged("refused")[0]["reason"]
    assert len(feed.read()) == 10


def test_a_missing_file_is_refused_in_one_sentence(stage):
    feed = stage("missing", {"file": {"path": "nowhere.csv", "format": "Csv"}})

    assert feed.run_to_its_end() == 78

    [refused] = feed.logged("refused")
    assert "nowhere.csv cannot be read: No such file or directory" in refused["reason"]
    assert "Traceback" not in feed.log.read_text()


def test_a_paced_file_takes_the_time_that_its_data_shows(stage, tmp_path):
    times = [1_700_000_000_000 + number * 60_000 for number in range(11)]
    (tmp_path / "events.ndjson").write_text("\n".join(json.dumps({"at": at}) for at in times))
    pace = {"field": "at", "speedup": 600}
    feed = stage("paced", {"file": {"path": "events.ndjson", "pace": pace}}).create_topics()

    assert feed.run_to_its_end() == 0

    sent = sorted((json.loads(message.value())["at"], message.timestamp()[1]) for message in feed.read())
    assert [at for at, _ in sent] == times
    # ten minutes at 600 times their speed are a second; the first may be late on the schedule that the others keep
    waited_ms = [at - sent[0][1] for _, at in sent]
    assert all(waited >= number * 100 - 300 for number, waited in enumerate(waited_ms))
    assert waited_ms[-1] <= 5_000


def test_the_weather_sample_sends_every_line_of_its_files(stage, tmp_path):
    sample = yaml.safe_load(SAMPLE.read_text())
    for producer, lines in zip(sample["spec"]["producers"], (8_759, 8_759), strict=True):
        source = producer["source"]
        source["file"]["path"] = str(SAMPLE.parent / source["file"]["path"])
        feed = stage(f"weather-{producer['name']}", source, key=producer["key"]).create_topics()

        assert feed.run_to_its_end() == 0

        records = [json.loads(message.value()) for message in feed.read()]
        assert len(records) == lines
        assert {message.key().decode() for message in feed.read()} == {producer["name"]}
        assert records[0]["timestamp"] == 1_262_304_000_000, "2010-01-01, in the order of the file"
        assert [record["timestamp"] for record in records] == sorted({record["timestamp"] for record in records})

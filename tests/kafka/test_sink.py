"""The sink's real process on a real broker, into a real DuckDB file, a real PostgreSQL and a real pipe."""

import itertools
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import duckdb
import pytest
import raw_client
import topics
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from services import Service, until

from forebay.messages import headers

sys.path.insert(0, str(Path(__file__).parent))
from postgres import PostgresServer

FIELDS = """
        - {name: device_id, type: string}
        - {name: timestamp, type: integer}
        - {name: temperature_c, type: number}
        - {name: ok, type: boolean}
        - {name: extra, type: json}"""
COLUMNS = ("device_id", "timestamp", "temperature_c", "ok", "extra")


@pytest.fixture(scope="module")
def postgres():
    with PostgresServer() as server:
        yield server


class World:
    """A Pipeline of one sink with topics and a table of its own."""

    def __init__(
        self, kafka, folder: Path, destination: str, *, fields=FIELDS, replicas=1, partitions=4, extra=""
    ) -> None:
        self.bootstrap, self.folder, self.partitions = kafka.bootstrap_servers, folder, partitions
        self.name = topics.unique("s")
        self.topic, self.dlq = f"{self.name}.enriched", f"{self.name}.enriched.dlq"
        self.group = f"default.{self.name}.store"
        self.table = f"t_{uuid.uuid4().hex[:8]}"
        self.secrets = self.secrets_of(0)
        self.file = folder / "store-0" / "pipeline.duckdb"
        topics.create(self.bootstrap, self.topic, self.dlq, partitions=partitions)
        declared = f"\n      fields:{fields}" if fields else ""
        self.yaml = f"""
apiVersion: forebay.dev/v1alpha1
kind: Pipeline
metadata: {{name: {self.name}}}
spec:
  kafka: {{bootstrapServers: unused:1}}
  topics:
    - name: {self.topic}
      partitions: {partitions}{declared}
  sinks:
    - name: store
      from: {self.topic}
      autoscaling: {{minReplicas: {replicas}, maxReplicas: {replicas}}}
      destination: {destination.replace("TABLE", self.table)}
{extra}
"""

    def secrets_of(self, ordinal: int) -> Path:
        return self.folder / f"secrets-{ordinal}"

    def service(self, ordinal: int = 0) -> Service:
        secrets = {"FOREBAY_SECRETS": str(self.secrets_of(ordinal))}
        return Service(self.folder, self.yaml, "store", "sink", self.bootstrap, ordinal, **secrets)

    def write(self, records, **properties) -> None:
        topics.write(self.bootstrap, self.topic, records, **properties)

    def drained(self) -> bool:
        return topics.lag(self.bootstrap, self.group, self.topic) == 0

    def dead(self):
        return topics.read(self.bootstrap, self.dlq)

    def stored(self, columns: str = ", ".join(COLUMNS)):
        """The file's rows; the sink must have closed it."""
        with duckdb.connect(str(self.file), read_only=True) as connection:
            return connection.execute(f"SELECT {columns} FROM {self.table}").fetchall()


DUCKDB = "{duckdb: {table: TABLE}}"
POSTGRES = "{postgres: {secretRef: {name: warehouse-db}, table: TABLE}}"


def reading(number: int) -> tuple[bytes, bytes]:
    device = f"d{number % 50}"
    value = {
        "device_id": device,
        "timestamp": 1_700_000_000_000 + number,
        "temperature_c": number / 8,
        "ok": number % 2 == 0,
        "extra": {"n": number, "text": "é\n\u2028"},
        "unknown": [1, 2],
    }
    return device.encode(), json.dumps(value, ensure_ascii=number % 3 == 0).encode()


def readings(count: int, start: int = 0):
    return (reading(number) for number in range(start, start + count))


def row(number: int):
    return (
        f"d{number % 50}",
        1_700_000_000_000 + number,
        number / 8,
        number % 2 == 0,
        {"n": number, "text": "é\n\u2028"},
    )


def by_time(rows):
    return sorted(
        ((*cells[:4], json.loads(cells[4]) if isinstance(cells[4], str) else cells[4]) for cells in rows),
        key=lambda cells: cells[1],
    )


def test_a_record_whose_headers_cannot_be_read_is_stored(kafka, tmp_path):
    world = World(kafka, tmp_path, DUCKDB)
    world.write(readings(100))
    key, value = reading(100)
    for text in (value, b"{"):
        raw_client.write_with_header(world.bootstrap, world.topic, key, text, b"\xff")
    with world.service() as service:
        until(world.drained, what="everything stored")
        assert service.stop() == 0

    assert by_time(world.stored()) == [row(number) for number in range(101)]
    assert [each.value() for each in world.dead()] == [b"{"]


def letter(message) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers() or ()}


def share(service: Service) -> float:
    """How many partitions the replica owns."""
    return service.metric("forebay_assigned_partitions")


def wait_for(world: World, service: Service) -> None:
    until(lambda: world.drained() or not service.is_running(), what=f"{world.topic} is stored")
    assert service.is_running(), service.log()


# -- each destination stores each record once ---------------------------------------------------------------------


def test_duckdb_holds_every_record_once_with_its_types_and_is_closed_on_sigterm(kafka, tmp_path):
    world = World(kafka, tmp_path, DUCKDB)
    world.write(readings(5_000))
    with world.service() as sink:
        wait_for(world, sink)
        world.write(readings(100, 5_000))
        wait_for(world, sink)
        assert sink.metric("forebay_records_in_total") == 5_100
        assert sink.metric("forebay_records_out_total") == 5_100

        assert sink.stop() == 0

    assert by_time(world.stored()) == [row(number) for number in range(5_100)]
    assert not world.file.with_suffix(".duckdb.wal").exists()
    assert world.dead() == []


def test_postgres_holds_every_record_once_with_its_types(kafka, tmp_path, postgres):
    world = World(kafka, tmp_path, POSTGRES)
    postgres.write_secret(world.secrets)
    world.write(readings(5_000))
    with world.service() as sink:
        wait_for(world, sink)
        assert sink.stop() == 0

    rows = postgres.execute(f"SELECT {', '.join(COLUMNS)} FROM {world.table}")
    assert by_time(rows) == [row(number) for number in range(5_000)]
    assert postgres.password not in sink.log()


def test_stdout_gets_one_json_line_per_record_and_the_sink_stops_when_nobody_reads(kafka, tmp_path):
    world = World(kafka, tmp_path, "{stdout: {}}", fields=None)
    pretty = json.dumps({"n": 1}, indent=2).encode()
    world.write([(b"k", pretty), (b"k", b'"text"'), (b"k", b"no json"), (b"k", b"null")])
    sink = world.service()
    with subprocess.Popen(
        sink.command, env=sink.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        lines = [process.stdout.readline() for _ in range(3)]
        until(world.drained, what="offsets are committed")
        process.stdout.close()
        world.write([(b"k", b"1")])
        assert process.wait(30) == 0

    assert [json.loads(line) for line in lines] == [{"n": 1}, "text", None]
    assert [letter(message)[headers.REASON] for message in world.dead()] == ["malformed"]


def test_records_of_unknown_fields_become_key_and_value(kafka, tmp_path):
    world = World(kafka, tmp_path, DUCKDB, fields=None)
    world.write([(b"a", b'{"x": [1, 2.50]}'), (None, b"3"), (b"\xff", b"4")])
    with world.service() as sink:
        wait_for(world, sink)
        sink.stop()

    assert sorted(world.stored("key, value"), key=str) == [("a", '{"x": [1, 2.50]}'), (None, "3")]
    assert [message.key() for message in world.dead()] == [b"\xff"]


def test_ends_of_aborted_transactions_leave_no_lag(kafka, tmp_path):
    world = World(kafka, tmp_path, DUCKDB)
    producer = Producer({"bootstrap.servers": world.bootstrap, "transactional.id": world.name})
    producer.init_transactions(30)
    with world.service() as sink:
        for number, end in enumerate((producer.commit_transaction, producer.abort_transaction) * 2):
            producer.begin_transaction()
            for each in range(100):
                key, value = reading(number * 100 + each)
                producer.produce(world.topic, value, key)
            producer.flush(30)
            end(30)
        wait_for(world, sink)
        sink.stop()

    assert by_time(world.stored()) == [row(number) for number in (*range(100), *range(200, 300))]


# -- dead letters -------------------------------------------------------------------------------------------------

BAD = {
    b'{"device_id": "x"': "malformed",
    b"\xff\xfe": "malformed",
    b'{"skipped": "\xff"}': "malformed",
    b"[" * 50_000 + b"]" * 50_000: "invalid-field",
    b'{"skipped": ' + b"[" * 50_000 + b"]" * 50_000 + b"}": "malformed",
    b"": "malformed",
    b"[1]": "invalid-field",
    b'{"temperature_c": "21.5"}': "invalid-field",
    b'{"temperature_c": 1e999}': "invalid-field",
    b'{"timestamp": 1.0}': "invalid-field",
    b'{"timestamp": 9223372036854775808}': "invalid-field",
    b'{"ok": 1}': "invalid-field",
    None: "no-value",
}


@pytest.mark.parametrize("destination", [DUCKDB, POSTGRES], ids=["duckdb", "postgres"])
def test_what_cannot_be_read_is_a_dead_letter_with_its_coordinates_and_all_else_is_stored(
    kafka, tmp_path, postgres, destination
):
    world = World(kafka, tmp_path, destination)
    postgres.write_secret(world.secrets)
    good = list(readings(1_000))
    mixed = list(itertools.chain.from_iterable(zip(good[: len(BAD)], ((b"bad", value) for value in BAD), strict=True)))
    world.write(mixed + good[len(BAD) :])
    with world.service() as sink:
        wait_for(world, sink)
        assert sink.metric("forebay_dead_letters_total") == len(BAD)
        sink.stop()

    count = f"SELECT count(*), count(DISTINCT timestamp) FROM {world.table}"
    stored = postgres.execute(count) if "postgres" in destination else None
    assert (stored or world.stored("count(*), count(DISTINCT timestamp)")) == [(1_000, 1_000)]
    source = {(message.partition(), message.offset()): message for message in topics.read(world.bootstrap, world.topic)}
    letters = world.dead()
    assert {message.value(): letter(message)[headers.REASON] for message in letters} == BAD
    for message in letters:
        told = letter(message)
        origin = source[int(told[headers.SOURCE_PARTITION]), int(told[headers.SOURCE_OFFSET])]
        assert origin.value() == message.value()
        assert (told[headers.SOURCE_TOPIC], told[headers.STAGE]) == (world.topic, "store")


def test_rows_that_postgres_refuses_are_found_among_the_others(kafka, tmp_path, postgres):
    world = World(kafka, tmp_path, POSTGRES, partitions=1)
    postgres.write_secret(world.secrets)
    postgres.execute(
        f"CREATE TABLE {world.table} (id bigserial, device_id varchar(5), timestamp bigint PRIMARY KEY, "
        "temperature_c double precision CHECK (temperature_c < 1000), ok boolean, extra jsonb)"
    )
    bad = [
        (b"x", b'{"timestamp": 1, "device_id": "too long"}'),
        (b"x", b'{"timestamp": 2, "temperature_c": 1000}'),
        (b"x", b'{"timestamp": 3, "device_id": "a\\u0000b"}'),
        (b"x", b'{"timestamp": 4, "extra": {"a": "\\u0000"}}'),
        (b"x", b'{"timestamp": 5, "extra": 1e200000}'),
        (b"x", b'{"timestamp": null}'),
        reading(17),
    ]
    records = list(readings(2_000))
    for number, record in enumerate(bad):
        records.insert(300 * (number + 1) - number, record)
    world.write(records)
    with world.service() as sink:
        wait_for(world, sink)
        sink.stop()

    assert postgres.execute(f"SELECT count(*) FROM {world.table}") == [(2_000,)]
    letters = world.dead()
    assert [message.value() for message in letters] == [value for _, value in bad]
    assert [letter(message)[headers.REASON] for message in letters] == [
        *["rejected-by-database"] * 2,
        "invalid-field",
        *["rejected-by-database"] * 4,
    ]
    assert "duplicate key" in letter(letters[-1])[headers.DETAIL]


def test_rows_that_duckdb_refuses_are_found_among_the_others(kafka, tmp_path):
    world = World(kafka, tmp_path, DUCKDB, partitions=1)
    world.file.parent.mkdir(parents=True)
    with duckdb.connect(str(world.file)) as connection:
        connection.execute(
            f"CREATE TABLE {world.table} (Device_ID VARCHAR, timestamp BIGINT PRIMARY KEY, "
            "temperature_c DOUBLE CHECK (temperature_c < 1000), ok BOOLEAN, extra JSON, stored_at TIMESTAMP DEFAULT now())"
        )
    records = list(readings(2_000))
    bad = [(b"x", b'{"timestamp": 1, "temperature_c": 1000}'), (b"x", b'{"timestamp": null}'), reading(17)]
    for number, record in enumerate(bad):
        records.insert(500 * (number + 1), record)
    world.write(records)
    with world.service() as sink:
        wait_for(world, sink)
        sink.stop()

    assert by_time(world.stored()) == [row(number) for number in range(2_000)]
    assert [message.value() for message in world.dead()] == [value for _, value in bad]


def test_a_whole_batch_that_the_database_refuses_does_not_stop_the_sink(kafka, tmp_path, postgres):
    world = World(kafka, tmp_path, POSTGRES)
    postgres.write_secret(world.secrets)
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(COLUMNS[:2], ("text", "bigint"), strict=True))
    postgres.execute(
        f"CREATE TABLE {world.table} ({columns}, temperature_c double precision, ok boolean, extra jsonb, CHECK (ok IS NULL))"
    )
    world.write(readings(3_000))
    with world.service() as sink:
        wait_for(world, sink)
        sink.stop()

    assert postgres.execute(f"SELECT count(*) FROM {world.table}") == [(0,)]
    assert len(world.dead()) == 3_000


# -- exactly once through whatever happens ------------------------------------------------------------------------


@pytest.mark.parametrize("destination", [DUCKDB, POSTGRES], ids=["duckdb", "postgres"])
def test_kill_9_again_and_again_stores_every_record_once(kafka, tmp_path, postgres, destination):
    world = World(kafka, tmp_path, destination, extra="      batch: {maxRecords: 500, maxWaitMs: 20}")
    postgres.write_secret(world.secrets)
    world.write(readings(60_000))
    dice = random.Random(7)
    with world.service() as sink:
        for _ in range(3):
            already = sink.metric("forebay_records_in_total")
            until(
                lambda sink=sink, already=already: sink.metric("forebay_records_in_total") > already or world.drained(),
                what="the sink stores",
                every_s=0.02,
            )
            time.sleep(dice.uniform(0, 0.3))
            sink.kill()
            sink.start()
        wait_for(world, sink)
        assert sink.stop() == 0

    counted = "count(*), count(DISTINCT timestamp)"
    stored = (
        postgres.execute(f"SELECT {counted} FROM {world.table}") if "postgres" in destination else world.stored(counted)
    )
    assert stored == [(60_000, 60_000)]


def test_a_sink_that_slept_in_mid_batch_and_was_overtaken_stores_nothing_twice(kafka, tmp_path, postgres):
    """A trigger holds the sleeper's batch between its rows and its move, with the connection alive throughout."""
    world = World(kafka, tmp_path, POSTGRES, replicas=2)
    columns = "device_id text, timestamp bigint, temperature_c double precision, ok boolean, extra jsonb"
    postgres.execute(f"CREATE TABLE {world.table} ({columns})")
    postgres.execute(
        f"CREATE FUNCTION hold_{world.table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF current_setting('application_name') = 'sleeper' THEN "
        "SET LOCAL lock_timeout = 0; PERFORM pg_advisory_xact_lock(42); END IF; RETURN NULL; END $$"
    )
    postgres.execute(
        f"CREATE TRIGGER hold AFTER INSERT ON {world.table} FOR EACH STATEMENT EXECUTE FUNCTION hold_{world.table}()"
    )
    counted = f"SELECT count(*), count(DISTINCT timestamp) FROM {world.table}"
    for ordinal, name in enumerate(("sleeper", "successor")):
        postgres.write_secret(world.secrets_of(ordinal), uri_as=name)
    with world.service(0) as sleeper, world.service(1) as successor, postgres.connect() as gate:
        until(lambda: share(sleeper) == share(successor) == 2, what="both own partitions")
        gate.execute("SELECT pg_advisory_lock(42)")
        world.write(readings(4_000))
        until(
            lambda: postgres.execute(
                "SELECT 1 FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'advisory' "
                "AND query LIKE 'COPY%%'"
            ),
            what="the sleeper's rows are held",
        )
        sleeper.signal(signal.SIGSTOP)
        until(lambda: postgres.execute(counted) == [(4_000, 4_000)], what="the successor has stored everything")
        gate.execute("SELECT pg_advisory_unlock(42)")
        sleeper.signal(signal.SIGCONT)
        until(
            lambda: "overtaken" in sleeper.log() or postgres.execute(counted) != [(4_000, 4_000)],
            what="the sleeper finishes its batch",
        )
        assert postgres.execute(counted) == [(4_000, 4_000)]
        world.write(readings(500, 4_000))
        until(world.drained, what="both go on")
        assert (sleeper.stop(), successor.stop()) == (0, 0)

    assert postgres.execute(counted) == [(4_500, 4_500)]


def test_postgres_crashing_under_load_is_waited_for_and_loses_and_repeats_nothing(kafka, tmp_path):
    with PostgresServer() as server:
        world = World(kafka, tmp_path, POSTGRES, extra="      batch: {maxRecords: 500, maxWaitMs: 20}")
        server.write_secret(world.secrets)
        with world.service() as sink:
            world.write(readings(20_000))
            until(lambda: sink.metric("forebay_records_in_total") > 0, what="the sink stores", every_s=0.02)
            server.stop()
            until(lambda: '"event": "waiting"' in sink.log(), what="the sink waits")
            world.write(readings(20_000, 20_000))
            server.start()
            wait_for(world, sink)
            stored = server.execute(f"SELECT count(*), count(DISTINCT timestamp) FROM {world.table}")
            waits = [line for line in sink.log().splitlines() if '"event": "waiting"' in line]
            assert sink.stop() == 0

        assert stored == [(40_000, 40_000)]
        assert world.dead() == []
        assert server.password not in sink.log()
        assert 1 <= len(waits) <= 4, waits


def test_two_replicas_that_start_at_once_create_one_table_and_share_the_partitions(kafka, tmp_path, postgres):
    world = World(kafka, tmp_path, POSTGRES, replicas=2)
    for ordinal in range(2):
        postgres.write_secret(world.secrets_of(ordinal))
    world.write(readings(2_000))
    with world.service(0) as first, world.service(1) as second:
        until(lambda: share(first) == share(second) == 2, what="both own partitions")
        world.write(readings(2_000, 2_000))
        until(world.drained, what="everything is stored")
        assert first.metric("forebay_records_in_total") > 0
        assert second.metric("forebay_records_in_total") > 0
        assert (first.stop(), second.stop()) == (0, 0)

    assert postgres.execute(f"SELECT count(*), count(DISTINCT timestamp) FROM {world.table}") == [(4_000, 4_000)]


# -- what a person has to mend ------------------------------------------------------------------------------------


def test_a_table_that_does_not_fit_is_refused_naming_columns_types_and_cures(kafka, tmp_path, postgres):
    world = World(kafka, tmp_path, POSTGRES)
    postgres.write_secret(world.secrets)
    postgres.execute(
        f"CREATE TABLE {world.table} (device_id text, timestamp integer, ok boolean, extra jsonb, site text NOT NULL)"
    )
    with world.service() as sink:
        assert sink.wait() == 78

    table = f'"public"."{world.table}"'
    reason = next(json.loads(line)["reason"] for line in sink.log().splitlines() if '"refused"' in line)
    assert reason == (
        f"table {table} does not fit the records: "
        f"column timestamp is integer, but field type integer needs bigint: ALTER TABLE {table} ALTER COLUMN "
        '"timestamp" TYPE bigint; '
        f'it has no column temperature_c: ALTER TABLE {table} ADD COLUMN "temperature_c" double precision; '
        "column site is NOT NULL without a default, but the records have no such field: "
        f'ALTER TABLE {table} ALTER COLUMN "site" DROP NOT NULL; or name another table in the destination'
    )


def test_a_locked_file_is_waited_for_with_one_sentence(kafka, tmp_path):
    world = World(kafka, tmp_path, DUCKDB)
    world.write(readings(10))
    world.file.parent.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import duckdb, sys; c = duckdb.connect({str(world.file)!r}); sys.stdin.read()"],
        stdin=subprocess.PIPE,
    )
    until(world.file.exists, what="the file is open elsewhere")
    with world.service() as sink:
        until(lambda: "close that one" in sink.log(), what="the lock is named")
        holder.stdin.close()
        holder.wait()
        wait_for(world, sink)
        sink.stop()

    assert len(world.stored()) == 10
    assert sink.log().count("close that one") == 1


def test_a_wrong_password_is_waited_for_and_never_told(kafka, tmp_path, postgres):
    world = World(kafka, tmp_path, POSTGRES)
    postgres.write_secret(world.secrets)
    (world.secrets / "warehouse-db" / "password").write_text("not-this-one")
    world.write(readings(10))
    with world.service() as sink:
        until(lambda: "password authentication failed" in sink.log(), what="the refusal is told")
        postgres.write_secret(world.secrets)
        wait_for(world, sink)
        sink.stop()

    assert "not-this-one" not in sink.log()
    assert postgres.password not in sink.log()


def test_a_topic_made_anew_starts_afresh(kafka, tmp_path):
    world = World(kafka, tmp_path, DUCKDB, partitions=1)
    world.write(readings(100))
    with world.service() as sink:
        wait_for(world, sink)
        sink.stop()
    admin = AdminClient({"bootstrap.servers": world.bootstrap})
    admin.delete_topics([world.topic])[world.topic].result(30)
    until(lambda: world.topic not in admin.list_topics(timeout=10).topics, what="the topic is gone")
    topics.create(world.bootstrap, world.topic, partitions=1)
    world.write(readings(150, 100))
    with world.service() as sink:
        wait_for(world, sink)
        sink.stop()

    assert by_time(world.stored()) == [row(number) for number in range(250)]


def test_a_topic_made_anew_below_a_running_sink_is_stored_whole(kafka, tmp_path):
    """The new topic is longer than the old one's positions: only its id tells that they are of another one."""
    world = World(kafka, tmp_path, DUCKDB, partitions=1)
    world.write(readings(100))
    with world.service() as sink:
        wait_for(world, sink)
        sink.signal(signal.SIGSTOP)
        admin = AdminClient({"bootstrap.servers": world.bootstrap})
        admin.delete_topics([world.topic])[world.topic].result(30)
        until(lambda: world.topic not in admin.list_topics(timeout=10).topics, what="the topic is gone")
        topics.create(world.bootstrap, world.topic, partitions=1)
        world.write(readings(1_000, 100))
        sink.signal(signal.SIGCONT)
        assert sink.wait(60) == 1
        assert "made again" in sink.log()
        sink.start()
        wait_for(world, sink)
        sink.stop()

    assert by_time(world.stored()) == [row(number) for number in range(1_100)]


def test_latency_is_measured_on_records_that_carry_their_intake_time(kafka, tmp_path):
    world = World(kafka, tmp_path, DUCKDB)
    producer = Producer({"bootstrap.servers": world.bootstrap})
    key, value = reading(1)
    producer.produce(world.topic, value, key, headers=[(headers.INGEST_TIME, str(time.time_ns() // 1_000_000 - 5_000))])
    producer.produce(world.topic, value, key)
    producer.flush(30)
    with world.service() as sink:
        wait_for(world, sink)

        assert sink.metric("forebay_end_to_end_latency_seconds_count") == 1
        assert 5 <= sink.metric("forebay_end_to_end_latency_seconds_sum") < 60

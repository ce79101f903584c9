"""Records that are wrong in every way: each becomes a dead letter once, and its neighbours do not notice. Cases 14 to 18."""

import json
import random
import time

import pytest
import raw_client
import topics
from confluent_kafka import Producer
from services import until
from world import (
    AVERAGE,
    World,
    assert_all_is_right,
    assert_exactly_once,
    assert_no_open_transactions,
    assert_state_is_the_input_folded,
    averages_of,
    expected_averages,
    readings,
)

from forebay.kafka.settings import MAX_MESSAGE_BYTES
from forebay.messages import headers

HOSTILE = {
    b"": "malformed",
    b"{": "malformed",
    b"[1, 2]": "invalid-field",
    b'"text"': "invalid-field",
    b"null": "invalid-field",
    b"{}": "invalid-field",
    b'{"temperature_c": NaN}': "malformed",
    b'{"temperature_c": Infinity}': "malformed",
    b'{"temperature_c": 1e400}': "invalid-field",
    b'{"temperature_c": -1.1e300}': "invalid-field",
    b'{"temperature_c": ' + b"9" * 400 + b"}": "invalid-field",
    b'{"temperature_c": true}': "invalid-field",
    b'{"temperature_c": null}': "invalid-field",
    b'{"temperature_c": "21"}': "invalid-field",
    b'{"temperature_c": [21]}': "invalid-field",
    b'{"Temperature_C": 21}': "invalid-field",
    b'{"temperature_c": 21,}': "malformed",
    b'{"temperature_c": 21} trailing': "malformed",
    b'{"temperature_c": 021}': "malformed",
    b'\xef\xbb\xbf{"temperature_c": 21}': "malformed",
    b'{"temperature_c": 21, "note": "\xff\xfe"}': "not-utf8",
    b'{"temperature_c": 21, "note": "\xed\xa0\x80"}': "not-utf8",
    b'{"temperature_c": 21, "note": "\x00"}': "malformed",
    b'{"temperature_c": 21, "note": "\\ud800"}': "malformed",
    b'{"temperature_c": 21, "note": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "too-deep",
    None: "no-value",
}


def reasons_of(dead) -> dict[bytes | None, str]:
    return {each.value(): dict(each.headers())[headers.REASON].decode() for each in dead}


# -- 14 -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(400)])], ids=["5s", "60s"]
)
def test_14_a_flood_of_malformed_records_is_all_in_the_dead_letters_once(kafka, tmp_path, seconds):
    world = World(kafka, tmp_path, AVERAGE)
    good = list(readings(500))
    world.write(good[:250])
    sent = 0
    with world.service() as service:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            world.write(("device-1", b'{"flood": %d' % number) for number in range(sent, sent + 10_000))
            sent += 10_000
        world.write(good[250:])
        until(world.drained, what="everything processed", deadline_s=seconds * 4 + 60)
        spent_s = service.metric("forebay_processing_seconds_sum")
        assert service.metric("forebay_dead_letters_total", reason="malformed") == sent
        assert service.metric("forebay_transactions_total", result="aborted") == 0
        assert service.stop() == 0

    print(f"{sent} malformed records, {1e6 * spent_s / sent:.1f} microseconds of processing each")
    numbers = [int(each.value().rpartition(b" ")[2]) for each in world.dead()]
    assert len(numbers) == sent
    assert set(numbers) == set(range(sent))
    assert averages_of(world.output()) == expected_averages(good)
    assert len(service.log()) < 20_000, "the log grows with the flood"
    assert_no_open_transactions(world)


# -- 15 (and tests/unit/processor) --------------------------------------------------------------------------------------


def test_15_hostile_records_among_many_good_ones(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    good = list(readings(20_000, devices=50))
    mixed: list = list(good)
    places = random.Random(15)
    for text in HOSTILE:
        mixed.insert(places.randrange(len(mixed)), (f"device-{places.randrange(50)}", text))
    world.write(mixed)
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.metric("forebay_transactions_total", result="aborted") == 0
        assert service.stop() == 0

    dead = world.dead()
    assert reasons_of(dead) == HOSTILE
    assert len(dead) == len(HOSTILE)
    raw = {(each.partition(), each.offset()): each.value() for each in topics.read(world.bootstrap, world.raw)}
    for each in dead:
        explained = {name: value.decode() for name, value in each.headers()}
        assert explained[headers.SOURCE_TOPIC] == world.raw
        assert raw[int(explained[headers.SOURCE_PARTITION]), int(explained[headers.SOURCE_OFFSET])] == each.value()
        assert 0 < len(explained[headers.DETAIL]) <= 500
    assert_all_is_right(world, good, tmp_path / "enrich-0")


def test_15_headers_that_are_no_text_and_times_that_are_none(kafka, tmp_path):
    """The client cannot read such a header, and would hand out memory that is not there if it were asked again."""
    world = World(kafka, tmp_path, AVERAGE)
    good = list(readings(3_000))
    world.write(good[:1_000])
    for number in range(3):
        raw_client.write_with_header(world.bootstrap, world.raw, b"device-1", b"%d" % number, b"\xff\xfe")
    producer = Producer({"bootstrap.servers": world.bootstrap, "partitioner": "murmur2_random"})
    absurd = [b"9" * 400, b"9" * 5_000, b"-1", b"1e3", b"", None]
    for (key, value), text in zip(good[1_000:], absurd, strict=False):
        producer.produce(world.raw, value, key, headers=[(headers.INGEST_TIME, text)])
    assert producer.flush(30) == 0
    world.write(good[1_000 + len(absurd) :])
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.metric("forebay_transactions_total", result="aborted") == 0
        assert service.stop() == 0

    assert reasons_of(world.dead()) == dict.fromkeys((b"0", b"1", b"2"), "invalid-header")
    assert len(world.dead()) == 3
    assert_all_is_right(world, good, tmp_path / "enrich-0")


def test_15_nesting_that_can_just_be_decoded(kafka, tmp_path):
    """What is done with a record afterwards goes deeper by a few calls."""
    world = World(kafka, tmp_path, AVERAGE, partitions=1)
    text = '{"device_id": "a", "timestamp": %d, "temperature_c": 1, "avg_temperature_c": 0, "nested": %s}'
    depths = range(700, 1_100)
    world.write(("a", (text % (depth, "[" * depth + "]" * depth)).encode()) for depth in depths)
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.metric("forebay_transactions_total", result="aborted") == 0
        assert service.stop() == 0

    reasons = list(reasons_of(world.dead()).values())
    assert set(reasons) == {"too-deep"}
    assert len(world.output()) + len(reasons) == len(depths)
    assert len(world.output()) > 100


# -- 16 -----------------------------------------------------------------------------------------------------------------


def limited(world: World, limit: int) -> None:
    """Let the output topic take records of so many bytes, and the Pipeline say so."""
    topics.configure(world.bootstrap, world.enriched, "max.message.bytes", str(limit))
    name = f"name: {world.enriched}, partitions: 3"
    world.yaml = world.yaml.replace(name, f'{name}, config: {{max.message.bytes: "{limit}"}}')


def padded(sequence: int, size: int) -> bytes:
    noise = random.Random(sequence).randbytes(size // 2).hex()
    return json.dumps({"device_id": "large", "timestamp": sequence, "temperature_c": 1, "pad": noise}).encode()


def test_16_output_too_large_for_client_or_broker_is_isolated(kafka, tmp_path):
    """The broker's refusal fails a whole transaction and names no record; the client's refusal does."""
    world = World(kafka, tmp_path, AVERAGE)
    limited(world, 2_000)
    records = list(readings(4_000))
    for_broker, for_client = padded(0, 1_900), padded(1, 40_000)
    world.write(
        [*records[:2_000], ("large", for_broker), *records[2_000:3_000], ("large", for_client), *records[3_000:]]
    )
    with world.service() as service:
        until(world.drained, what="everything processed")
        aborted = service.metric("forebay_transactions_total", result="aborted")
        assert service.stop() == 0

    assert averages_of(world.output()) == expected_averages(records)
    explained = {dict(each.headers())[headers.REASON]: each for each in world.dead()}
    assert explained.keys() == {b"rejected-by-kafka", b"too-large"}
    assert explained[b"rejected-by-kafka"].value() == for_broker
    assert explained[b"too-large"].value() is None, "the client would not take it as a dead letter either"
    raw = {(each.partition(), each.offset()): each.value() for each in topics.read(world.bootstrap, world.raw)}
    place = dict(explained[b"too-large"].headers())
    assert raw[int(place[headers.SOURCE_PARTITION]), int(place[headers.SOURCE_OFFSET])] == for_client
    assert 0 < aborted <= 15
    assert_no_open_transactions(world)


def test_16_letters_that_do_not_fit_are_cut_short(kafka, tmp_path):
    """The client refuses the first one's headers, the broker the second one's: nothing but reason and place is left."""
    world = World(kafka, tmp_path, AVERAGE)
    limited(world, 2_000)
    records = list(readings(1_000))
    world.write(records[:500])
    producer = Producer(
        {"bootstrap.servers": world.bootstrap, "partitioner": "murmur2_random", "message.max.bytes": 2_000_000}
    )
    noise = random.Random(16)
    for size in (20_000, MAX_MESSAGE_BYTES - 300):
        producer.produce(world.raw, b"malformed", b"device-1", headers=[("large", noise.randbytes(size))])
    assert producer.flush(30) == 0
    world.write(records[500:])
    topics.configure(world.bootstrap, world.dlq, "max.message.bytes", "10000")
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    assert_exactly_once(world, records)
    assert [(each.key(), each.value()) for each in world.dead()] == [(None, None)] * 2
    explained = [dict(each.headers()) for each in world.dead()]
    assert all(b"large" not in each and each[headers.SOURCE_TOPIC] == world.raw.encode() for each in explained)
    assert_no_open_transactions(world)


def test_16_a_letter_of_unreadable_headers_is_cut_short(kafka, tmp_path):
    """The broker refuses it whole, so it is looked for; nothing may ask it for its headers then."""
    world = World(kafka, tmp_path, AVERAGE)
    topics.configure(world.bootstrap, world.dlq, "max.message.bytes", "10000")
    records = list(readings(300))
    world.write(records[:150])
    noise = random.Random(16).randbytes(15_000)
    raw_client.write_with_header(world.bootstrap, world.raw, b"device-1", noise, b"\xff")
    world.write(records[150:])
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    assert_exactly_once(world, records)
    (dead,) = world.dead()
    assert (dead.key(), dead.value()) == (b"device-1", None)


def test_16_a_refused_record_is_found_in_batches_of_one(kafka, tmp_path):
    """A read takes one record, a transaction many."""
    world = World(kafka, tmp_path, AVERAGE, extra="      batch: {maxRecords: 1, maxWaitMs: 1000}")
    limited(world, 2_000)
    records = list(readings(300))
    world.write([*records[:150], ("large", padded(0, 1_900)), *records[150:]])
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    assert averages_of(world.output()) == expected_averages(records)
    assert len(world.dead()) == 1


def test_16_what_an_abort_meets_behind_a_start_at_the_end_is_read_again(kafka, tmp_path):
    """Before the first commit only the process knows where it began: the end of the topic is another one by then."""
    world = World(kafka, tmp_path, AVERAGE, extra="      startFrom: Latest\n      batch: {maxWaitMs: 5000}")
    limited(world, 2_000)
    world.write(readings(100, seed=1, start=10_000))
    records = list(readings(300))
    with world.service() as service:
        until(lambda: service.log().count('"event": "state restored"') == 3, what="it has begun")
        world.write([*records[:150], ("large", padded(0, 1_900)), *records[150:]])
        until(lambda: len(world.output()) == len(records), what="everything processed")
        assert service.metric("forebay_transactions_total", result="aborted") > 0
        assert service.stop() == 0

    assert_exactly_once(world, records)
    assert len(world.dead()) == 1


def test_16_state_too_large_for_its_changelog_is_isolated(kafka, tmp_path):
    (tmp_path / "hoarding.py").write_text(
        """
def hoard(record):
    record.state.value = (record.state.value or "") + "x" * record.value["n"]
    return {"n": record.value["n"], "held": len(record.state.value)}
"""
    )
    transforms = """
        - name: avg
          python: {entrypoint: "hoarding:hoard", stateful: true}
"""
    world = World(kafka, tmp_path, transforms)
    sizes = [*[1] * 500, 1_500_000, *[1] * 500]
    world.write((f"k{index % 7}", json.dumps({"n": size}).encode()) for index, size in enumerate(sizes))
    with world.service(PYTHONPATH=str(tmp_path)) as service:
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    held: dict[int, int] = {}
    for index, size in enumerate(sizes):
        held[index % 7] = held.get(index % 7, 0) + (1 if size == 1 else 0)
    last = {each.key(): json.loads(each.value())["held"] for each in world.output()}
    assert last == {f"k{index}".encode(): count for index, count in held.items()}
    (dead,) = world.dead()
    assert json.loads(dead.value()) == {"n": 1_500_000}


# -- 17 -----------------------------------------------------------------------------------------------------------------


def test_17_no_key_no_value_and_an_empty_key(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    good = list(readings(300))
    world.write(
        [
            *good[:150],
            (None, b'{"temperature_c": 1}'),
            (None, None),
            ("device-1", None),
            *((b"", b'{"device_id": "", "timestamp": %d, "temperature_c": %d}' % (n, n)) for n in range(3)),
            *good[150:],
        ]
    )
    with world.service() as service:
        until(world.drained, what="everything processed")
        service.kill()
        service.start()
        world.write([(b"", b'{"device_id": "", "timestamp": 3, "temperature_c": 3}')])
        until(lambda: service.metric("forebay_assigned_partitions") == 3, what="it is back")
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    empty = [("", b'{"device_id": "", "timestamp": %d, "temperature_c": %d}' % (n, n)) for n in range(4)]
    assert averages_of(world.output()) == expected_averages([*good, *empty])
    assert sorted(dict(each.headers())[headers.REASON] for each in world.dead()) == [
        b"no-key",
        b"no-value",
        b"no-value",
    ]
    assert all(each.key() is not None for each in topics.read(world.bootstrap, world.changelog))
    assert_state_is_the_input_folded(world, [*good, *empty], tmp_path / "enrich-0")


@pytest.mark.parametrize("mode", ["Record", "Batch"])
def test_17_a_stateful_function_is_not_given_records_without_a_key(kafka, tmp_path, mode):
    (tmp_path / "counting.py").write_text(
        """
def one(record):
    record.state.value = (record.state.value or 0) + 1
    return {"seen": record.state.value}

def many(records):
    return [one(record) for record in records]
"""
    )
    entrypoint = {"Record": "counting:one", "Batch": "counting:many"}[mode]
    transforms = f"""
        - name: avg
          python: {{entrypoint: "{entrypoint}", mode: {mode}, stateful: true}}
"""
    world = World(kafka, tmp_path, transforms, partitions=1)
    world.write([("k", b"{}"), (None, b"{}"), ("k", None), ("k", b"{}")])
    with world.service(PYTHONPATH=str(tmp_path)):
        until(world.drained, what="everything processed")

    assert [json.loads(each.value()) for each in world.output()] == [{"seen": 1}, {"seen": 2}]
    assert sorted(dict(each.headers())[headers.REASON] for each in world.dead()) == [b"no-key", b"no-value"]


def test_17_a_stage_without_state_passes_records_without_a_key_on(kafka, tmp_path):
    transforms = """
        - name: warm
          filter: {where: [{field: temperature_c, min: 10}]}
"""
    world = World(kafka, tmp_path, transforms, partitions=1, stateful=False)
    texts = [b'{"temperature_c": 11}', b'{"temperature_c": 9}', b'{"other": 1}', None, b'{"temperature_c": 12}']
    world.write((None, text) for text in texts)
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.metric("forebay_records_dropped_total") == 2

    assert [(each.key(), each.value()) for each in world.output()] == [(None, texts[0]), (None, texts[4])]
    assert reasons_of(world.dead()) == {None: "no-value"}


def test_17_an_empty_topic_is_no_lag_and_no_trouble(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    with world.service() as service:
        until(lambda: service.metric("forebay_assigned_partitions") == 3, what="it is ready")
        time.sleep(1)
        assert world.drained()
        assert service.metric("forebay_transactions_total", result="aborted") == 0
        world.write(readings(10))
        until(lambda: len(world.output()) == 10, what="the first records are processed")
        assert service.stop() == 0


# -- 18 -----------------------------------------------------------------------------------------------------------------


def test_18_absurd_record_timestamps_are_not_handed_on(kafka, tmp_path):
    """What is written has the time of writing, so an output topic that checks timestamps refuses nothing."""
    world = World(kafka, tmp_path, AVERAGE)
    topics.configure(world.bootstrap, world.raw, "message.timestamp.after.max.ms", str(2**63 - 1))
    for topic in (world.enriched, world.dlq, world.changelog):
        for bound in ("before", "after"):
            topics.configure(world.bootstrap, topic, f"message.timestamp.{bound}.max.ms", "60000")
    records = [*readings(3_000), ("device-1", b"malformed")]
    absurd = [-1, 1, 1_000, 946_684_800_000, 4_102_444_800_000, 253_402_300_799_000]
    producer = Producer({"bootstrap.servers": world.bootstrap, "partitioner": "murmur2_random"})
    for index, (key, value) in enumerate(records):
        producer.produce(world.raw, value, key, timestamp=absurd[index % len(absurd)])
    assert producer.flush(30) == 0
    stamps = {each.timestamp()[1] for each in topics.read(world.bootstrap, world.raw)}
    assert stamps == set(absurd), "the broker took the timestamps as they are"
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.metric("forebay_transactions_total", result="aborted") == 0
        assert service.stop() == 0

    assert_exactly_once(world, records[:-1])
    assert len(world.dead()) == 1
    now_ms = time.time() * 1000
    assert all(abs(each.timestamp()[1] - now_ms) < 60_000 for each in [*world.output(), *world.dead()])

"""The processor's real process on a real broker."""

import json
import math
import random
import signal
import time

import pytest
import topics
from services import until
from world import (
    AVERAGE,
    World,
    assert_exactly_once,
    assert_no_open_transactions,
    assert_order_per_key,
    assert_state_is_the_input_folded,
    averages_of,
    expected_averages,
    readings,
)

from forebay.messages import headers


def test_averages_keys_and_other_fields_are_right(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(5_000))
    world.write(records)
    with world.service() as service:
        until(world.drained, what="everything processed")

        assert service.stop() == 0

    output = world.output()
    assert averages_of(output) == expected_averages(records)
    assert all(json.loads(each.value())["device_id"].encode() == each.key() for each in output)
    assert {each.key(): each.partition() for each in topics.read(kafka.bootstrap_servers, world.raw)} == {
        each.key(): each.partition() for each in output
    }


def test_a_restart_continues_with_offsets_and_state(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(3_000))
    world.write(records[:1_500])
    with world.service() as service:
        until(world.drained, what="the first half processed")
        assert service.stop() == 0
    world.write(records[1_500:])
    with world.service():
        until(world.drained, what="the second half processed")

    assert averages_of(world.output()) == expected_averages(records)


def test_kill_9_at_random_times_loses_and_doubles_nothing(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(60_000, devices=500))
    chance = random.Random(3)
    service = world.service().start()
    try:
        for part in range(6):
            world.write(records[part * 10_000 : (part + 1) * 10_000])
            until(lambda: service.metric("forebay_records_in_total") > 0, what="progress", every_s=0.02)
            until(lambda: chance.random() < 0.2, what="a random moment", every_s=0.02)
            service.kill()
            service.start()
        until(world.drained, what="everything processed")
    finally:
        service.kill()

    assert averages_of(world.output()) == expected_averages(records)


def test_malformed_records_are_dead_letters_once_with_reasons_and_neighbours_live(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    good = list(readings(200))
    bad = {
        b"{": "malformed",
        b"not json": "malformed",
        b'{"temperature_c": "warm"}': "invalid-field",
        b'{"humidity_pct": 3}': "invalid-field",
        b'{"temperature_c": 1, "note": "\xff"}': "not-utf8",
        b'{"temperature_c": NaN}': "malformed",
        b'{"temperature_c": 1e301}': "invalid-field",
        b"\xef\xbb\xbf{}": "malformed",
        b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}": "too-deep",
        b"": "malformed",
        None: "no-value",
    }
    world.write([*good[:100], *(("device-1", value) for value in bad), *good[100:]])
    with world.service() as service:
        until(world.drained, what="everything processed")
        assert service.metric("forebay_dead_letters_total") == len(bad)

    assert averages_of(world.output()) == expected_averages(good)
    dead = world.dead()
    reasons = {each.value(): dict(each.headers())[headers.REASON].decode() for each in dead}
    assert reasons == bad
    assert len(dead) == len(bad)
    raw = {(each.partition(), each.offset()): each.value() for each in topics.read(world.bootstrap, world.raw)}
    for each in dead:
        explained = {name: value.decode() for name, value in each.headers()}
        place = (int(explained[headers.SOURCE_PARTITION]), int(explained[headers.SOURCE_OFFSET]))
        assert raw[place] == each.value()
        assert explained[headers.SOURCE_TOPIC] == world.raw
        assert explained[headers.STAGE] == "enrich"


def test_records_without_key_and_odd_but_valid_ones(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE, partitions=1)
    world.write(
        [
            (None, b'{"temperature_c": 1}'),
            ("a", b' {"temperature_c": 1 , "avg_temperature_c": "old"} '),
            ("a", b'{"temperature_c": 2, "name": "\xc3\xa4"}\n'),
            ("a", b'{"temperature_c": 3, "temperature_c": 6}'),
        ]
    )
    with world.service():
        until(world.drained, what="everything processed")

    values = [json.loads(each.value()) for each in world.output()]
    assert values == [
        {"temperature_c": 1, "avg_temperature_c": 1.0},
        {"temperature_c": 2, "name": "ä", "avg_temperature_c": 1.5},
        {"temperature_c": 6, "avg_temperature_c": 3.0},
    ]
    assert [dict(each.headers())[headers.REASON] for each in world.dead()] == [b"no-key"]


def test_filters_drop_and_python_transforms_compute(kafka, tmp_path):
    (tmp_path / "usercode.py").write_text(
        """
from forebay.errors import Undeliverable

def count(record):
    if record.value["n"] == 13:
        raise Undeliverable("unlucky")
    if record.value["n"] == 14:
        record.state.value = {"broken": True}
        raise RuntimeError("boom")
    seen = (record.state.value or 0) + 1
    record.state.value = seen
    if record.value["n"] % 2:
        return None
    return [{**record.value, "seen": seen}, {"n": -record.value["n"], "seen": seen}]
"""
    )
    transforms = """
        - name: small
          filter: {where: [{field: "n", max: 19}]}
        - name: avg
          python: {entrypoint: "usercode:count", stateful: true}
"""
    world = World(kafka, tmp_path, transforms, partitions=1)
    world.write(("k", json.dumps({"n": n}).encode()) for n in range(25))
    with world.service(PYTHONPATH=str(tmp_path)) as service:
        until(world.drained, what="everything processed")
        assert service.metric("forebay_records_dropped_total") == 5 + 9

    seen, wanted = 0, []
    for n in range(20):
        if n not in (13, 14):
            seen += 1
            if n % 2 == 0:
                wanted += [{"n": n, "seen": seen}, {"n": -n, "seen": seen}]
    assert [json.loads(each.value()) for each in world.output()] == wanted
    details = {dict(each.headers())[headers.REASON]: dict(each.headers())[headers.DETAIL] for each in world.dead()}
    assert details == {b"undeliverable": b"unlucky", b"python-error": b"RuntimeError: boom"}


def test_a_python_batch_function_that_fails_is_tried_record_by_record(kafka, tmp_path):
    (tmp_path / "batchcode.py").write_text(
        """
def double(records):
    results = []
    for record in records:
        record.state.value = (record.state.value or 0) + record.value["n"]
        if record.value["n"] == 5:
            raise ValueError("five")
        results.append({"n": record.value["n"], "sum": record.state.value})
    return results
"""
    )
    transforms = """
        - name: avg
          python: {entrypoint: "batchcode:double", mode: Batch, stateful: true}
"""
    world = World(kafka, tmp_path, transforms, partitions=1)
    world.write(("k", json.dumps({"n": n}).encode()) for n in range(8))
    with world.service(PYTHONPATH=str(tmp_path)):
        until(world.drained, what="everything processed")

    output = [json.loads(each.value()) for each in world.output()]
    assert [each["n"] for each in output] == [0, 1, 2, 3, 4, 6, 7]
    assert output[-1]["sum"] == 0 + 1 + 2 + 3 + 4 + 6 + 7
    assert len(world.dead()) == 1


def test_two_replicas_share_the_partitions_and_state_moves_with_them(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE, partitions=4)
    records = list(readings(30_000, devices=300))
    world.write(records[:10_000])
    with world.service(0) as first:
        until(world.drained, what="the first part processed")
        with world.service(1) as second:
            until(lambda: second.metric("forebay_assigned_partitions") == 2, what="partitions shared")
            world.write(records[10_000:20_000])
            until(world.drained, what="the second part processed")
            assert second.metric("forebay_records_in_total") > 0
            assert second.stop() == 0
        world.write(records[20_000:])
        until(world.drained, what="the last part processed")
        assert first.stop() == 0

    assert averages_of(world.output()) == expected_averages(records)


@pytest.mark.parametrize("count", [1, 500])
def test_headers_ride_along_and_latency_is_measured(kafka, tmp_path, count):
    world = World(kafka, tmp_path, AVERAGE, partitions=1)
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": world.bootstrap})

    for number in range(count):
        carried = [(headers.INGEST_TIME, str(int(time.time() * 1000)).encode()), ("mine", b"x")]
        producer.produce(
            world.raw, b'{"temperature_c": %d}' % number, "k", headers=carried if number % 100 == 0 else None
        )
    producer.flush()
    with world.service() as service:
        until(world.drained, what="everything processed")
        samples = math.ceil(count / 100)
        assert service.metric("forebay_end_to_end_latency_seconds_count") == samples

    output = world.output()
    assert [json.loads(each.value())["temperature_c"] for each in output] == list(range(count))
    assert [dict(each.headers() or ()).get("mine") for each in output].count(b"x") == samples


def test_sigterm_finishes_the_batch_and_leaves_the_group_at_once(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    world.write(readings(20_000))
    with world.service(0) as first, world.service(1) as second:
        until(lambda: second.metric("forebay_assigned_partitions") > 0, what="both work")
        first.signal(signal.SIGTERM)
        assert first.wait(10) == 0
        until(lambda: second.metric("forebay_assigned_partitions") == 3, what="the other has all", deadline_s=8)
        until(world.drained, what="everything processed")

    assert averages_of(world.output()) == expected_averages(list(readings(20_000)))


def test_batches_that_wait_long_delay_neither_restore_nor_stop_nor_outlive_a_transaction(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE, extra="      batch: {maxWaitMs: 60000}")
    with world.service() as service:
        until(lambda: service.metric("forebay_assigned_partitions") == 3, what="it has all partitions")
        until(lambda: service.log().count("state restored") == 3, what="state is restored", deadline_s=5)
        world.write(readings(3_000))
        until(world.drained, what="everything processed", deadline_s=12)
        assert service.stop(5) == 0


def test_output_that_the_topic_refuses_becomes_a_dead_letter_and_the_rest_goes_on(kafka, tmp_path):
    """The added field pushes one record in the middle of many beyond the output topic's limit."""
    world = World(kafka, tmp_path, AVERAGE)
    topics.configure(world.bootstrap, world.enriched, "max.message.bytes", "2000")
    records = list(readings(2_000))
    large = (
        b'{"device_id": "large", "timestamp": 0, "temperature_c": 1, "pad": "'
        + random.Random(1).randbytes(950).hex().encode()
        + b'"}'
    )
    world.write([*records[:1_000], ("large", large), *records[1_000:]])
    world.yaml = world.yaml.replace(
        f"name: {world.enriched}, partitions: 3",
        f'name: {world.enriched}, partitions: 3, config: {{max.message.bytes: "2000"}}',
    )
    with world.service():
        until(world.drained, what="everything processed")

    assert averages_of(world.output()) == expected_averages(records)
    (dead,) = world.dead()
    assert dict(dead.headers())[headers.REASON] == b"rejected-by-kafka"
    assert dead.value() == large


def test_local_state_equals_changelog_equals_input_after_kill_and_stop(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE)
    records = list(readings(20_000, devices=300))
    world.write(records)
    with world.service() as service:
        until(lambda: service.metric("forebay_records_in_total") > 0, what="progress", every_s=0.02)
        service.kill()
        service.start()
        until(lambda: service.metric("forebay_assigned_partitions") == 3, what="it is back")
        until(world.drained, what="everything processed")
        assert service.stop() == 0

    assert_exactly_once(world, records)
    assert_order_per_key(world)
    assert_no_open_transactions(world)
    assert_state_is_the_input_folded(world, records, tmp_path / "enrich-0")


def test_a_rate_limit_is_kept(kafka, tmp_path):
    world = World(kafka, tmp_path, AVERAGE, extra="      rateLimit: 500")
    world.write(readings(3_000))
    with world.service() as service:
        until(lambda: service.metric("forebay_records_in_total") > 0, what="progress", every_s=0.02)
        begun, first = time.monotonic(), service.metric("forebay_records_in_total")
        until(lambda: service.metric("forebay_records_in_total") > 2_000, what="2 000 records")
        seconds, records = time.monotonic() - begun, service.metric("forebay_records_in_total") - first

    assert records / seconds < 650

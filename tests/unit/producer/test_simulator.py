import json
from collections import defaultdict

import msgspec
import pytest

from forebay.errors import Refused
from forebay.pipeline.spec import Simulator
from forebay_producer.sources.simulator import BREAKAGES, FIELDS, Simulation

NOW_MS = 1_700_000_000_000


class Reading(msgspec.Struct):
    """What a processor reads that needs the temperature and passes the rest on unread."""

    temperature_c: float


def simulation(*, ordinal=0, replicas=1, key="device_id", now_ms=NOW_MS, **spec):
    return Simulation(Simulator(**spec), key=key, ordinal=ordinal, replicas=replicas, now_ms=lambda: now_ms)


def events(source, count, *, position=None, at_most=10_000):
    """The next events, and the position behind them."""
    messages = []
    while len(messages) < count:
        batch = source.take(position, min(at_most, count - len(messages)))
        if not batch.events:
            break
        assert batch.events == len(batch.messages) <= at_most
        messages += batch.messages
        position = batch.position
    return messages, position


def test_a_reading_has_the_promised_fields_in_their_ranges():
    messages, _ = events(simulation(devices=30), 5_000)

    for message in messages:
        reading = json.loads(message["value"])
        assert tuple(reading) == FIELDS
        assert message["key"].decode() == reading["device_id"]
        assert -20 < reading["temperature_c"] < 50
        assert 0 <= reading["humidity_pct"] <= 100
    assert messages[29]["key"] == b"device-00029"


def test_equal_seeds_give_equal_readings_and_others_give_others():
    first, _ = events(simulation(seed=4), 3_000)

    assert first == events(simulation(seed=4), 3_000)[0]
    assert first != events(simulation(seed=5), 3_000)[0]


@pytest.mark.parametrize("stop", [1, 1_999, 2_000, 2_001, 4_321])
def test_a_restart_anywhere_continues_as_if_nothing_had_happened(stop):
    whole, _ = events(simulation(malformed_share=0.1), 6_000)
    before, position = events(simulation(malformed_share=0.1), stop, at_most=777)
    stored = json.loads(json.dumps(position))

    after, _ = events(simulation(malformed_share=0.1, now_ms=NOW_MS + 9_999), 6_000 - stop, position=stored)

    assert before + after == whole


def test_replicas_divide_devices_and_records_among_them():
    shares = [
        events(simulation(devices=10, records=1_003, ordinal=ordinal, replicas=3), 9_999)[0] for ordinal in range(3)
    ]
    devices = [{message["key"] for message in share} for share in shares]

    assert [len(share) for share in shares] == [335, 334, 334]
    assert set.union(*devices) == {f"device-{number:05d}".encode() for number in range(10)}
    assert sum(map(len, devices)) == 10


def test_replicas_without_a_device_leave_everything_to_the_others():
    one, other = (simulation(devices=1, records=100, events_per_second=50, ordinal=n, replicas=2) for n in (0, 1))

    assert len(events(one, 1_000)[0]) == 100
    assert one.per_second == 50
    assert events(other, 1_000)[0] == []
    assert other.take(None, 10).events == 0


def test_replicas_share_the_rate_evenly():
    assert simulation(events_per_second=900, replicas=3).per_second == 300
    assert simulation().per_second is None


@pytest.mark.parametrize(("rate", "step_ms"), [(None, 1), (100, 1_000), (10, 10_000), (1_000_000, 1)])
def test_a_device_s_time_goes_on_as_fast_as_the_rate_says(rate, step_ms):
    times = defaultdict(list)
    for message in events(simulation(devices=100, events_per_second=rate), 1_000)[0]:
        reading = json.loads(message["value"])
        times[reading["device_id"]].append(reading["timestamp"])

    assert all(series == [NOW_MS + step_ms * step for step in range(10)] for series in times.values())


def test_readings_stay_unique_when_the_simulator_is_changed_on_the_way():
    before, position = events(simulation(devices=10), 5_005)
    after, _ = events(simulation(devices=100), 5_000, position=position)
    seen = [
        (reading["device_id"], reading["timestamp"]) for reading in (json.loads(m["value"]) for m in before + after)
    ]

    assert len(set(seen)) == len(seen)


def test_a_million_devices_take_no_memory_of_their_own():
    batch = simulation(devices=10_000_000).take({**start(9_999_999), "devices": 10_000_000}, 1)

    assert batch.messages[0]["key"] == b"device-9999999"


def start(event):
    return {"event": event, "since": 0, "start_ms": NOW_MS, "step_ms": 1, "devices": 1, "replicas": 1}


def test_the_share_of_malformed_events_is_kept_and_a_reader_of_temperatures_refuses_every_one():
    messages, _ = events(simulation(malformed_share=0.05), 20_000)
    refused = []
    for message in messages:
        assert message["key"].startswith(b"device-")
        try:
            msgspec.json.decode(message["value"], type=Reading)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            refused.append(message["value"])

    assert len(refused) == pytest.approx(1_000, abs=120)
    assert simulation(malformed_share=1).take(None, 10).events == 10


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_every_breakage_is_refused(breakage):
    reading = '{"device_id":"device-00001","timestamp":1,"temperature_c":21.50,"humidity_pct":40.1}'

    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        msgspec.json.decode(breakage(reading, "21.50"), type=Reading)


def test_the_key_can_be_any_field_or_none():
    [message], _ = events(simulation(key="timestamp"), 1)
    assert message["key"] == str(NOW_MS).encode()
    [message], _ = events(simulation(key=None), 1)
    assert message["key"] is None

    with pytest.raises(
        Refused, match=r"key\.field 'device' is no field of a simulated reading: use one of device_id, "
    ):
        simulation(key="device")


def test_a_position_of_another_source_is_refused():
    with pytest.raises(Refused, match="none of a simulator"):
        simulation().take({"offset": 3}, 1)

"""What a record may look like, and what becomes of it: dead letters with reasons, neighbours as they were."""

import json

import msgspec
import pytest
from confluent_kafka import Message

from forebay_processor.rows import Decoder, decode_objects


def message(value: bytes | None) -> Message:
    return Message(topic="raw", partition=0, offset=0, key=b"k", value=value)


GOOD = b'{"t": 1.5}'
REFUSED = [
    (b"", "malformed"),
    (b" ", "malformed"),
    (b"{", "malformed"),
    (b"}", "malformed"),
    (b"{]", "malformed"),
    (b"not json", "malformed"),
    (b"[]", "invalid-field"),
    (b"1", "invalid-field"),
    (b'"x"', "invalid-field"),
    (b"null", "invalid-field"),
    (b"{}", "invalid-field"),
    (b'{"T": 1}', "invalid-field"),
    (b'{"t": NaN}', "malformed"),
    (b'{"t": -Infinity}', "malformed"),
    (b'{"t": 1e400}', "invalid-field"),
    (b'{"t": 1.1e300}', "invalid-field"),
    (b'{"t": -1.1e300}', "invalid-field"),
    (b'{"t": ' + b"9" * 400 + b"}", "invalid-field"),
    (b'{"t": "1"}', "invalid-field"),
    (b'{"t": true}', "invalid-field"),
    (b'{"t": null}', "invalid-field"),
    (b'{"t": {}}', "invalid-field"),
    (b'{"t": [1]}', "invalid-field"),
    (b'{"t": 1, "t": "1"}', "invalid-field"),
    (b'{"t": 1,}', "malformed"),
    (b'{"t": 1} {"t": 2}', "malformed"),
    (b'{"t": 01}', "malformed"),
    (b'{"t": +1}', "malformed"),
    (b'{"t": .5}', "malformed"),
    (b'{"t": 0x10}', "malformed"),
    (b"{'t': 1}", "malformed"),
    (b"{t: 1}", "malformed"),
    (b'{"t": 1} // x', "malformed"),
    (b'\xef\xbb\xbf{"t": 1}', "malformed"),
    ('{"t": 1}'.encode("utf-16"), "not-utf8"),
    (b'{"t": 1, "x": "\xff"}', "not-utf8"),
    (b'{"t": 1, "x": "\xc0\xaf"}', "not-utf8"),
    (b'{"t": 1, "x": "\xed\xa0\x80"}', "not-utf8"),
    (b'{"t": 1, "x": "\\ud800"}', "malformed"),
    (b'{"t": 1, "x": "\\q"}', "malformed"),
    (b'{"t": 1, "x": "\n"}', "malformed"),
    (b'{"t": 1, "x": "\x00"}', "malformed"),
    (b'{"t": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too-deep"),
    (b'{"t": 1, "x": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "too-deep"),
    (None, "no-value"),
]
TAKEN = [
    (b'{"t": 1}', 1.0),
    (b'{"t":-0.0}', -0.0),
    (b'{"t": 1e-400}', 0.0),
    (b'{"t": 1e300}', 1e300),
    (b'{"t": 123456789012345678901234567890}', 123456789012345678901234567890.0),
    (b'{"t": 2, "t": 3}', 3.0),
    (b'{"\\u0074": 4}', 4.0),
    (b' \t\r\n{"t": 5}\n ', 5.0),
    (b'{"t": 6, "x": 1e999, "y": ' + b"9" * 5_000 + b"}", 6.0),
    (b'{"t": 7, "x": ' + b"[" * 200 + b"]" * 200 + b"}", 7.0),
    ('{"t": 8, "ä": "\U0001f321", "": null}'.encode(), 8.0),
]


def decoder() -> Decoder:
    return Decoder(numbers=["t"], optional=[], outputs=["mean"])


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[repr(text)[:30] for text, _ in REFUSED])
def test_a_hostile_record_is_refused_with_a_reason_and_its_neighbours_are_not(text, reason):
    before, hostile, after = message(GOOD), message(text), message(GOOD)
    rows = decoder().decode([before, hostile, after])

    (letter,) = rows.dead_letters
    assert (letter.source, letter.reason) == (hostile, reason)
    assert letter.detail
    assert rows.sources == [before, after]
    assert list(rows.numbers("t")) == [1.5, 1.5]


@pytest.mark.parametrize(("text", "number"), TAKEN, ids=[repr(text)[:30] for text, _ in TAKEN])
def test_an_odd_record_is_taken_and_keeps_its_other_fields_byte_for_byte(text, number):
    rows = decoder().decode([message(text)])
    assert rows.dead_letters == []
    assert list(rows.numbers("t")) == [number]
    rows.add("mean", [0.5])
    (encoded,) = rows.encoded()
    assert encoded == text.rstrip()[:-1] + b',"mean":0.5}'


@pytest.mark.parametrize("text", [text for text, reason in REFUSED if reason != "invalid-field"])
def test_python_transforms_are_not_given_what_is_no_json(text):
    rows = decode_objects([message(GOOD), message(text), message(GOOD)])
    assert len(rows.dead_letters) == 1
    assert rows.records == [{"t": 1.5}, {"t": 1.5}]


def test_a_field_that_is_there_already_is_replaced_and_the_others_are_not_touched():
    text = b'{"mean": "x", "t": 1, "big": 123456789012345678901234567890, "huge": 1e999, "mean": 3}'
    plain = b'{"t": 2}'
    rows = decoder().decode([message(text), message(plain)])
    rows.add("mean", [1.0, 1.5])
    first, second = rows.encoded()
    assert first.count(b'"mean"') == 1
    assert msgspec.json.decode(first, type=dict[str, msgspec.Raw])["mean"] == msgspec.Raw(b"1.0")
    assert b"123456789012345678901234567890" in first
    assert b"1e999" in first
    assert json.loads(second) == {"t": 2, "mean": 1.5}


def test_a_field_may_be_replaced_by_what_was_computed_from_it():
    rows = Decoder(numbers=["t"], optional=[], outputs=["t"]).decode([message(b'{"t": 1}')])
    rows.add("t", [0.5])
    assert [json.loads(text) for text in rows.encoded()] == [{"t": 0.5}]


def test_the_detail_never_holds_the_content():
    rows = decoder().decode([message(b'{"t": "secret"}')])
    assert "secret" not in rows.dead_letters[0].detail

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import Refused
from forebay.pipeline.spec import FieldType, RecordField
from forebay_sink.rows import RowDecoder

FIELDS = tuple(RecordField(name=kind.value, type=kind) for kind in FieldType)


def message(value: bytes | None, key: bytes | None = None) -> Message:
    return Message(topic="t", partition=0, offset=0, key=key, value=value)


def outcome(decoder: RowDecoder, *values: bytes | None):
    rows, letters = decoder.decode([message(value) for value in values])
    return rows, [letter.reason for letter in letters]


@pytest.mark.parametrize(
    ("value", "row"),
    [
        (b"{}", (None, None, None, None, None)),
        (b'{"string": null, "json": null, "number": null}', (None, None, None, None, None)),
        (b'{"string": "\\u00e9\\n", "other": [1]}', ("é\n", None, None, None, None)),
        (b'{"integer": -9223372036854775808}', (None, -(2**63), None, None, None)),
        (b'{"number": 3}', (None, None, 3.0, None, None)),
        (b'{"boolean": false}', (None, None, None, False, None)),
        (b'{"json": {"a": [1, 2.50]}}', (None, None, None, None, '{"a": [1, 2.50]}')),
        (b'{"json": "text"}', (None, None, None, None, '"text"')),
        (b'{"string": "first", "string": "last"}', ("last", None, None, None, None)),
    ],
)
def test_fields_become_cells(value, row):
    assert outcome(RowDecoder(FIELDS), value) == ([row], [])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no-value"),
        (b"", "malformed"),
        (b"{", "malformed"),
        (b'{"other": "\xff"}', "malformed"),
        (b'{"other": "\\ud800"}', "malformed"),
        (b'{"other": ' + b"[" * 9_999 + b"]" * 9_999 + b"}", "malformed"),
        (b'{"json": ' + b"[" * 9_999 + b"]" * 9_999 + b"}", "malformed"),
        (b"[]", "invalid-field"),
        (b'{"string": 1}', "invalid-field"),
        (b'{"integer": 1.0}', "invalid-field"),
        (b'{"integer": 9223372036854775808}', "invalid-field"),
        (b'{"integer": true}', "invalid-field"),
        (b'{"number": "1"}', "invalid-field"),
        (b'{"number": 1e400}', "invalid-field"),
        (b'{"number": NaN}', "malformed"),
        (b'{"boolean": 0}', "invalid-field"),
    ],
)
def test_what_cannot_be_read_is_told_apart(value, reason):
    assert outcome(RowDecoder(FIELDS), value, b"{}") == ([(None,) * 5], [reason])


def test_nul_is_refused_only_for_databases_that_cannot_hold_it():
    value = b'{"string": "a\\u0000b"}'

    assert outcome(RowDecoder(FIELDS[:1]), value) == ([("a\0b",)], [])
    assert outcome(RowDecoder(FIELDS[:1], refuses_nul=True), value) == ([], ["invalid-field"])
    assert outcome(RowDecoder(FIELDS[:1], refuses_nul=True), b'{"string": "\\\\u0000"}') == ([("\\u0000",)], [])


def test_without_fields_a_row_is_key_and_value():
    decoder = RowDecoder(None, refuses_nul=True)

    rows, letters = decoder.decode(
        [message(b" [1] ", b"k"), message(b"1"), message(b"1", b"\xff"), message(b"1", b"\0")]
    )

    assert rows == [("k", "[1]"), (None, "1")]
    assert [letter.reason for letter in letters] == ["malformed", "invalid-field"]


def test_a_field_name_that_no_decoder_takes_is_refused():
    with pytest.raises(Refused, match="rename it without quotes"):
        RowDecoder((RecordField(name='say "x"', type=FieldType.STRING),))


@given(st.lists(st.binary(max_size=40)))
def test_no_value_stops_the_decoder_or_is_lost(values):
    rows, letters = RowDecoder(FIELDS).decode([message(value) for value in values])

    assert len(rows) + len(letters) == len(values)

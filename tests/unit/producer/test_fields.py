import pytest

from forebay.pipeline.spec import FieldMapping
from forebay_producer.sources.fields import Unmappable, key_text, mapping


def mapped(value, **field):
    return mapping([FieldMapping(name="x", **field)])({"x": value})["x"]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", "a b ", "a b "),
        ("string", "", ""),
        ("string", 7, "7"),
        ("string", True, "true"),
        ("integer", " 42 ", 42),
        ("integer", "-7", -7),
        ("integer", 8.0, 8),
        ("number", "39.4", 39.4),
        ("number", "1e3", 1000.0),
        ("number", 3, 3),
        ("boolean", "True", True),
        ("boolean", "0", False),
        ("boolean", False, False),
        ("timestamp", "1262304000000", 1_262_304_000_000),
        ("timestamp", 1_262_304_000_000, 1_262_304_000_000),
        ("timestamp", "2010-01-01", 1_262_304_000_000),
        ("timestamp", "2010-01-01T00:00:00.123Z", 1_262_304_000_123),
        ("timestamp", "2010-01-01T02:00:00+02:00", 1_262_304_000_000),
        ("timestamp", "1969-12-31T23:59:59", -1_000),
    ],
)
def test_values_become_what_the_mapping_says(kind, value, expected):
    result = mapped(value, type=kind)

    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("string", None),
        ("string", {}),
        ("integer", "1.5"),
        ("integer", 1.5),
        ("integer", "1_000"),
        ("integer", True),
        ("integer", "9" * 100),
        ("number", ""),
        ("number", "nan"),
        ("number", "inf"),
        ("number", "1_0.5"),
        ("number", "warm"),
        ("number", False),
        ("number", None),
        ("boolean", "yes"),
        ("boolean", 1),
        ("timestamp", "yesterday"),
        ("timestamp", None),
        ("timestamp", []),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(kind, value):
    with pytest.raises(Unmappable, match=f"'x' is no {kind}: "):
        mapped(value, type=kind)


def test_a_timestamp_s_format_may_hold_an_offset_and_means_utc_without():
    assert mapped("2010/01/01 00:00", type="timestamp", format="%Y/%m/%d %H:%M") == 1_262_304_000_000
    assert mapped("2010/01/01 01:00 +0100", type="timestamp", format="%Y/%m/%d %H:%M %z") == 1_262_304_000_000
    with pytest.raises(Unmappable, match="'x' is no timestamp: '2010'"):
        mapped("2010", type="timestamp", format="%Y/%m/%d %H:%M")
    with pytest.raises(Unmappable, match="'x' is no timestamp: 2010"):
        mapped(2010, type="timestamp", format="%Y")


def test_columns_are_renamed_constants_added_and_the_order_is_the_mapping_s():
    record_of = mapping(
        [
            FieldMapping(name="b", column="two", type="integer"),
            FieldMapping(name="site", constant="7", type="integer"),
            FieldMapping(name="a", column="one"),
        ]
    )

    assert list(record_of({"one": "1", "two": "2", "three": "3"}).items()) == [("b", 2), ("site", 7), ("a", "1")]
    with pytest.raises(Unmappable, match="field 'two' is missing"):
        record_of({"one": "1"})


@pytest.mark.parametrize(
    ("value", "key"), [("é", "é".encode()), ("", b""), (7, b"7"), (1.5, b"1.5"), (True, b"true"), (2.0, b"2.0")]
)
def test_a_key_is_text_or_the_json_of_a_number_or_boolean(value, key):
    assert key_text(value) == key


@pytest.mark.parametrize("value", [None, [], {}])
def test_other_values_are_no_key(value):
    with pytest.raises(Unmappable, match="a key must be a text, a number or a boolean"):
        key_text(value)

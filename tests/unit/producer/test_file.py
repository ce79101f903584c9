import contextlib
import functools
import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from forebay.errors import Refused
from forebay.pipeline.spec import FileSource
from forebay.runtime.sourcing import Batch
from forebay_producer.sources.file import open_file
from forebay_producer.sources.lines import MAX_BYTES


@pytest.fixture
def source(tmp_path):
    """A function from the file's content and the source's spec to its records."""
    with contextlib.ExitStack() as opened:

        def make(content, *, key=None, **spec):
            (tmp_path / "data").write_bytes(content if isinstance(content, bytes) else content.encode())
            return opened.enter_context(
                contextlib.closing(open_file(FileSource(path="data", **spec), key=key, folder=tmp_path))
            )

        yield make


@pytest.fixture
def csv(source):
    return functools.partial(source, format="Csv")


def everything(records, *, at_most=1_000, position=None):
    """All values from the position on, and all flaws as (reason, line)."""
    values, flaws, is_last = [], [], False
    while not is_last:
        batch = records.take(position, at_most)
        assert batch.events == len(batch.messages) + len(batch.flaws) <= at_most
        values += [json.loads(message["value"]) for message in batch.messages]
        flaws += [(flaw.reason, int(flaw.detail.split(":")[0].removeprefix("line "))) for flaw in batch.flaws]
        position, is_last = batch.position, batch.is_last
    return values, flaws


def test_json_lines_are_sent_as_they_stand(source):
    records = source('\ufeff{"a": 1, "b": [true, null]}\r\n\n{"é": "x"}', key=None)

    assert everything(records) == ([{"a": 1, "b": [True, None]}, {"é": "x"}], [])


def test_csv_columns_are_texts_where_nothing_else_is_said(csv):
    records = csv('\ufeffa,b\r\n1,\r\n"x,""y""",2\r\n')

    assert everything(records) == ([{"a": "1", "b": ""}, {"a": 'x,"y"', "b": "2"}], [])


def test_bad_json_lines_cost_themselves_only(source):
    lines = [b"{}", b"{", b"[]", b"NaN", b'"\xff"', b"[" * 100_000, b'{"n": NaN}', b"{}"]

    values, flaws = everything(source(b"\n".join(lines)))

    assert values == [{}, {}]
    assert flaws == [("malformed", line) for line in range(2, 8)]


def test_bad_csv_rows_cost_themselves_only(csv):
    rows = ["a,b", "1,2", "3", "4,5,6", '"never closed,7', "8,9", '"two\nlines",10', "11,\x0012"]

    values, flaws = everything(csv("\n".join(rows).encode() + b"\n\xff,13\n14,15\n"))

    assert [value["b"] for value in values] == ["2", "9", "10", "\x0012", "15"]
    assert flaws == [("malformed", 3), ("malformed", 4), ("malformed", 5), ("malformed", 10)]


def test_lines_longer_than_a_mebibyte_are_flaws_and_not_memory(source, csv):
    long = b'{"a": "' + b"x" * 3 * MAX_BYTES + b'"}\n'

    assert everything(source(b"{}\n" + long + b"{}\n")) == ([{}, {}], [("too-long", 2)])
    assert everything(csv(b"a\n1\n" + b"y" * 3 * MAX_BYTES + b"\n2\n")) == (
        [{"a": "1"}, {"a": "2"}],
        [("too-long", 3)],
    )


def test_a_csv_row_of_endless_quoted_lines_is_a_flaw_too(csv):
    swallowing = '"x\n",' * (MAX_BYTES // 5 + 10)

    values, flaws = everything(csv(f"a,b\n1,2\n{swallowing}"))

    assert values[0] == {"a": "1", "b": "2"}
    assert flaws[0] == ("too-long", 3)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    cells=st.lists(st.text(st.sampled_from('ab,"\n\r é'), max_size=6), min_size=1, max_size=30),
    at_most=st.integers(1, 5),
)
def test_a_restart_behind_any_csv_row_continues_with_the_next(csv, cells, at_most):
    content = "n,cell\n" + "".join(f'{n},"{cell.replace(chr(34), chr(34) * 2)}"\n' for n, cell in enumerate(cells))
    position, values, is_last = None, [], False
    while not is_last:
        batch: Batch = csv(content).take(position, at_most)
        values += [json.loads(message["value"])["cell"] for message in batch.messages]
        position, is_last = json.loads(json.dumps(batch.position)), batch.is_last

    assert values == cells


def test_the_same_position_gives_the_same_events_again(source):
    records = source("".join(f'{{"n": {n}}}\n' for n in range(100)))
    first = records.take(None, 30)
    second = records.take(first.position, 30)

    assert records.take(None, 30) == first
    assert records.take(first.position, 30) == second
    assert records.take(first.position, 5).messages == second.messages[:5]


def test_fields_are_mapped_and_conversions_that_fail_are_flaws(csv):
    fields = [{"name": "site", "constant": "north"}, {"name": "level", "column": "l", "type": "number"}]

    values, flaws = everything(csv("l,other\n1.5,a\nhigh,b\n,c\n2,d\n", fields=fields, key="site"))

    assert values == [{"site": "north", "level": 1.5}, {"site": "north", "level": 2.0}]
    assert flaws == [("invalid-field", 3), ("invalid-field", 4)]


def test_a_record_without_its_key_is_a_flaw(source):
    batch = source('{"id": 1}\n{}\n{"id": null}\n{"id": "a"}\n', key="id").take(None, 10)

    assert [message["key"] for message in batch.messages] == [b"1", b"a"]
    assert [flaw.event for flaw in batch.flaws] == [1, 2]
    assert [batch.event_of(index) for index in range(2)] == [0, 3]


def test_a_paced_batch_holds_what_is_due_together(source):
    times = [0, 5, 9, 50, 40, 55, 1_000]
    records = source("\n".join(f'{{"at": {at}}}' for at in times), pace={"field": "at"})
    batches = []
    while not batches or not batches[-1].is_last:
        batches.append(records.take(batches[-1].position if batches else None, 100))

    assert [(batch.due_ms, batch.events) for batch in batches] == [(0, 3), (50, 3), (1_000, 1)]
    assert source("{}\n", pace={"field": "at"}).take(None, 1).flaws[0].reason == "invalid-field"


def test_empty_files_are_done_at_once(source, csv):
    assert everything(source("")) == ([], [])
    assert everything(csv("a,b\n")) == ([], [])
    assert source(b"\n" * 10_000_000).take(None, 10).is_last


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        ("a,b\n", {"fields": [{"name": "x"}, {"name": "y", "column": "b"}]}, "has no column 'x'; it has 'a', 'b'"),
        ("a,a\n", {}, "names 'a' twice"),
        ("", {}, "has no header line"),
        ("a,b\n", {"key": "c"}, "key.field 'c' is no field of the records; they have 'a', 'b'"),
        ("a,b\n", {"pace": {"field": "t"}}, "source.file.pace.field 't' is no field of the records"),
        (
            "a\n",
            {"fields": [{"name": "n", "constant": "x", "type": "integer"}]},
            "the constant of field 'n' is no integer: 'x'",
        ),
    ],
)
def test_what_can_be_known_before_the_first_record_is_refused_there(csv, content, spec, message):
    with pytest.raises(Refused, match=message):
        csv(content, **spec)


def test_missing_and_special_files_are_refused(tmp_path):
    with pytest.raises(
        Refused, match=r"nothing\.here cannot be read: No such file or directory; relative paths start at"
    ):
        open_file(FileSource(path="nothing.here"), key=None, folder=tmp_path)
    with pytest.raises(Refused, match="is no regular file"):
        open_file(FileSource(path="."), key=None, folder=tmp_path)


@pytest.mark.parametrize("content", ['{"n":2}\n{"n":1}\n', '{"n":1}', ""])
def test_a_file_that_changed_or_shrank_is_refused(source, content):
    position = source('{"n":1}\n{"n":2}\n').take(None, 9).position

    with pytest.raises(Refused, match=r"is not the file it was: it differs before line 3 \(byte 16\)"):
        source(content).take(position, 1)


def test_a_file_that_grew_is_continued(source):
    position = source('{"n":1}\n').take(None, 9).position

    assert everything(source('{"n":1}\n{"n":2}\n'), position=position) == ([{"n": 2}], [])


def test_a_position_of_another_source_is_refused(source):
    with pytest.raises(Refused, match="none of a file"):
        source("{}").take({"event": 1}, 1)


def test_numbers_that_json_writers_cannot_keep_are_flaws_or_exact(source):
    values, flaws = everything(source('{"n": 18446744073709551615}\n{"n": 1e400}\n'))

    assert values == [{"n": 18446744073709551615}]
    assert len(values) + len(flaws) == 2
    assert msgspec.json.decode(b"1.25") == 1.25

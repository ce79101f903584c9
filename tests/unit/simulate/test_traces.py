"""Trace files: what is read, and what is refused with a sentence."""

import pytest

from forebay_cli.simulate.traces import TraceError, check_partitions, load


def written(tmp_path, text):
    file = tmp_path / "t.csv"
    file.write_text(text)
    return file


def test_a_trace_with_a_header_comments_and_a_beginning_of_its_own(tmp_path):
    trace = load(written(tmp_path, "# from Prometheus\nseconds,records_per_second\n100,5\n110,7.5\n130,0\n"))

    assert (trace.name, trace.times, trace.rates) == ("t", (0.0, 10.0, 30.0), (5.0, 7.5, 0.0))
    assert trace.seconds == 50.0  # the last row holds as long as the one before it did
    assert trace.weights is None


def test_weights_of_the_partitions(tmp_path):
    trace = load(written(tmp_path, "0,100,1,2\n10,100,3,4\n"))

    assert trace.weights == ((1.0, 2.0), (3.0, 4.0))
    with pytest.raises(TraceError, match="--partitions 2"):
        check_partitions(trace, 12)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has 0 rows"),
        ("0,5\n", "has 1 rows"),
        ("0,5\n10\n", "t.csv:2: a row is seconds,records_per_second"),
        ("0,5\n10,many\n", "t.csv:2: '10,many' holds something that is no number"),
        ("0,5\n0,6\n", "t.csv:2: second 0 does not come after 0"),
        ("0,5\n10,-6\n", "t.csv:2: rates and weights are finite and not negative"),
        ("0,5\n10,nan\n", "t.csv:2: rates and weights are finite"),
        ("0,5\n10,6,1\n", "t.csv:2: 3 columns, the rows before have 2"),
        ("0,5,0,0\n10,6,1,1\n", "t.csv:1: the weights add up to nothing"),
        ("0,5\n1000000000,6\n", "the most is 8"),
        ("a,b\nc,d\n", "has 0 rows"),
    ],
)
def test_what_is_no_trace_is_refused_with_its_place(tmp_path, text, sentence):
    with pytest.raises(TraceError, match=sentence.replace("(", r"\(")):
        load(written(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(TraceError, match="No such file"):
        load(tmp_path / "none.csv")
    file = tmp_path / "b.csv"
    file.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(TraceError, match="no CSV file"):
        load(file)

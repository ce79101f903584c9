import pytest

from forebay_cli.run.durations import parse_duration, spoken


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5)]
)
def test_a_duration_is_a_number_and_its_unit(text, seconds):
    assert seconds == parse_duration(text)


@pytest.mark.parametrize("text", ["", "30", "s", "5 m", "-5s", "0s", "5m!", "1e3s", "five minutes", "9999999999999s"])
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="such as 30s, 5m or 1h30m"):
        parse_duration(text)


def test_a_duration_is_shown_in_its_shortest_form():
    assert [spoken(4.21), spoken(65), spoken(7210)] == ["4.2 s", "1:05", "2:00:10"]

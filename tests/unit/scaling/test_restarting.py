"""What a restart must not forget: written as plain figures, read back from where anybody may have written."""

import json

import pytest

from forebay.planning.scaling import Lasting, Memory, recalled, remembered

NOW = 1_700_000_000.0
LASTING = Lasting(capacity=407.0, fastest=412.0, scale_out_s=8.25, scale_in_s=3.5, changed_at=NOW - 60)


def test_it_is_recalled_as_it_was_remembered():
    kept = json.loads(json.dumps(remembered(Memory(lasting=LASTING))))

    assert recalled(kept, NOW) == Memory(lasting=LASTING)


def test_what_was_never_measured_is_left_out():
    assert remembered(Memory()) == {"scaleOutSeconds": 10.0, "scaleInSeconds": 5.0}
    assert recalled(remembered(Memory()), NOW) == Memory()


def test_figures_are_rounded():
    kept = remembered(Memory(lasting=Lasting(capacity=407.6543, fastest=0.0123456, changed_at=5.6)))

    assert kept == {
        "capacity": 408.0,
        "fastest": 0.0123,
        "changedAt": 6.0,
        "scaleOutSeconds": 10.0,
        "scaleInSeconds": 5.0,
    }


@pytest.mark.parametrize(
    ("changes", "is_written_anew"),
    [
        ({"capacity": 450.0}, False),
        ({"capacity": 300.0}, True),
        ({"scale_in_s": 5.0}, True),
        ({"changed_at": NOW}, True),
        ({"capacity": None}, True),
    ],
)
def test_they_are_written_anew_when_something_changed(changes, is_written_anew):
    before = remembered(Memory(lasting=LASTING))
    after = Memory(lasting=LASTING._replace(**changes))

    assert (remembered(after, before) != before) is is_written_anew


@pytest.mark.parametrize("before", [{}, {"changedAt": 1.0}, dict.fromkeys(remembered(Memory(lasting=LASTING)), "x")])
def test_what_others_wrote_is_replaced(before):
    assert remembered(Memory(lasting=LASTING), before) == remembered(Memory(lasting=LASTING))


@pytest.mark.parametrize("kept", [None, "nonsense", [1, 2], 7, {}, {"unknown": 1}, {1: 2}])
def test_what_is_none_of_ours_is_ignored(kept):
    assert recalled(kept, NOW) == Memory()


@pytest.mark.parametrize("name", ["capacity", "fastest", "scaleOutSeconds", "scaleInSeconds", "changedAt"])
@pytest.mark.parametrize(
    "value",
    ["9", True, None, [], {}, -1, 0, float("nan"), float("inf"), 1e300, 10**400],
    ids=lambda each: str(each)[:9],
)
def test_an_impossible_figure_counts_as_never_measured_and_spoils_no_other(name, value):
    kept = remembered(Memory(lasting=LASTING)) | {name: value}
    without = {key: figure for key, figure in remembered(Memory(lasting=LASTING)).items() if key != name}

    assert recalled(kept, NOW) == recalled(without, NOW)


def test_a_change_in_the_future_was_none():
    """Else a stage would wait for years until its replicas may be taken away."""
    assert recalled({"changedAt": NOW + 3_600}, NOW).lasting.changed_at is None

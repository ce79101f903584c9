"""The mean of the last values, however they come, whatever happens to the window in between."""

import struct
from collections import defaultdict, deque
from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import Refused
from forebay.runtime.state import Mark, MemoryStore, Origin
from forebay_processor.transforms.windows import Windows, decode

MARK = Mark(Origin("id", 1), 1, 0)
NUMBERS = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)
SIZES = st.integers(min_value=1, max_value=12)


def near(wanted):
    """A sum of floats may differ in the last digits by the order of its terms."""
    return pytest.approx(wanted, rel=1e-12, abs=1e-8)


def state_of(store: MemoryStore, size: int, cache_bytes: int = 1 << 20) -> Windows:
    return Windows(store, size=size, cache_bytes=cache_bytes)


def means(state: Windows, records: list[tuple[bytes, float]]) -> list[float]:
    return state.means([key for key, _ in records], [number for _, number in records])


@given(
    size=SIZES,
    batches=st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), NUMBERS), max_size=20), st.booleans(), st.booleans()
        )
    ),
)
def test_means_are_those_of_a_naive_deque_through_commits_aborts_and_evictions(size, batches):
    store = MemoryStore()
    state = state_of(store, size)
    naive: dict[bytes, deque[float]] = defaultdict(lambda: deque(maxlen=size))
    for records, commits, forgets in batches:
        tried = {key: deque(values, maxlen=size) for key, values in naive.items()}
        wanted = []
        for key, number in records:
            recent = tried.setdefault(key, deque(maxlen=size))
            recent.append(number)
            wanted.append(fsum(recent) / len(recent))
        assert means(state, records) == near(wanted)
        if commits:
            state.committed(state.changes(), MARK)
            naive.update(tried)
        else:
            state.aborted()
        if forgets:
            state.forget()
    assert {key: decode(store.get(key), size).tolist() for key in naive} == {
        key: list(each) for key, each in naive.items()
    }


@given(numbers=st.lists(NUMBERS, max_size=40), size=SIZES, other=SIZES)
def test_a_window_that_grows_or_shrinks_keeps_the_latest_values(numbers, size, other):
    store = MemoryStore()
    state = state_of(store, size)
    means(state, [(b"k", number) for number in numbers])
    state.committed(state.changes(), MARK)

    latest = numbers[-size:][-other:]
    assert decode(store.get(b"k"), other).tolist() == latest
    (mean,) = means(state_of(store, other), [(b"k", 7.0)])
    wanted = [*latest, 7.0][-other:]
    assert mean == near(fsum(wanted) / len(wanted))


def test_a_ring_is_decoded_from_its_oldest_value_on():
    assert decode(struct.pack("<BI3d", 1, 1, 30.0, 10.0, 20.0), 3).tolist() == [10.0, 20.0, 30.0]


def test_the_live_windows_are_bounded_and_what_was_dropped_is_read_again():
    store = MemoryStore()
    state = state_of(store, 2, cache_bytes=0)
    for number in range(5):
        keys = [b"key-%d" % key for key in range(number * 700, (number + 1) * 700)]
        assert state.means(keys, [1.0] * 700) == [1.0] * 700
        state.committed(state.changes(), MARK)
        assert len(state) <= 1_000
    assert means(state, [(b"key-0", 3.0), (b"key-3499", 5.0), (b"new", 7.0)]) == [2.0, 3.0, 7.0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b'{"n": 1}',
        struct.pack("<BI", 2, 0) + bytes(80),
        struct.pack("<BI", 1, 0) + bytes(81),
        struct.pack("<BI", 1, 10) + bytes(80),
        struct.pack("<BI", 1, 11) + bytes(80),
    ],
)
def test_what_another_version_wrote_is_refused(data):
    with pytest.raises(Refused, match="stateVersion"):
        decode(data, 10)


def test_one_absurd_value_leaves_no_trace_once_it_has_left_the_window():
    state = state_of(MemoryStore(), 3)
    found = means(state, [(b"k", number) for number in (1e300, 0.1, 0.2, 0.3)])
    assert found[-1] == near(0.2)

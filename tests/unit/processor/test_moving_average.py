"""The mean of the last values, however they come, whatever happens to the window in between."""

import struct
from collections import defaultdict, deque
from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.errors import Refused
from forebay.pipeline.spec import MovingAverage
from forebay.runtime.state import KeyedState, Mark, MemoryStore, Origin
from forebay_processor.transforms.moving_average import MovingAverageTransform, Window, decode

MARK = Mark(Origin("id", 1), 1, 0)
NUMBERS = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)
SIZES = st.integers(min_value=1, max_value=12)


def values_of(window: Window) -> list[float]:
    """Oldest first."""
    return list(window.values[window.next :] + window.values[: window.next])


def near(wanted):
    """A sum of floats may differ in the last digits by the order of its terms."""
    return pytest.approx(wanted, rel=1e-12, abs=1e-8)


def state_of(store: MemoryStore, size: int, cache_bytes: int = 1 << 20) -> KeyedState[Window]:
    return KeyedState(
        store,
        decode=lambda data: decode(data, size),
        encode=Window.encode,
        value_bytes=1_000,
        cache_bytes=cache_bytes,
    )


def means(state: KeyedState[Window], size: int, records: list[tuple[bytes, float]]) -> list[float]:
    transform = MovingAverageTransform(MovingAverage(field="t", window=size, output="mean"), state)
    return transform._means([key for key, _ in records], [number for _, number in records])


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
        assert means(state, size, records) == near(wanted)
        if commits:
            state.committed(state.changes(), MARK)
            naive.update(tried)
        else:
            state.aborted()
        if forgets:
            state.forget()
    assert {key: values_of(decode(store.get(key), size)) for key in naive} == {
        key: list(each) for key, each in naive.items()
    }


@given(numbers=st.lists(NUMBERS, max_size=40), size=SIZES, other=SIZES)
def test_a_window_that_grows_or_shrinks_keeps_the_latest_values(numbers, size, other):
    window = Window([])
    state = state_of(MemoryStore(), size)
    state.live[b"k"] = window
    means(state, size, [(b"k", number) for number in numbers])

    changed = decode(window.encode(), other)

    latest = numbers[-size:][-other:] if numbers else []
    assert values_of(changed) == latest
    state = state_of(MemoryStore(), other)
    state.live[b"k"] = changed
    (mean,) = means(state, other, [(b"k", 7.0)])
    wanted = [*latest, 7.0][-other:]
    assert mean == near(fsum(wanted) / len(wanted))


@given(numbers=st.lists(NUMBERS, max_size=30), size=SIZES)
def test_what_is_encoded_is_decoded(numbers, size):
    state = state_of(MemoryStore(), size)
    state.live[b"k"] = Window([])
    means(state, size, [(b"k", number) for number in numbers])
    window = state.live[b"k"]
    again = decode(window.encode(), size)
    assert (again.values, again.next) == (window.values, window.next)
    assert values_of(again) == numbers[-size:]


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
    found = means(state, 3, [(b"k", number) for number in (1e300, 0.1, 0.2, 0.3)])
    assert found[-1] == near(0.2)

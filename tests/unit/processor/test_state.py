"""When local state is believed, what an abort leaves, how much is held in memory, and where a partition goes on."""

import pytest

from forebay.errors import Refused
from forebay.kafka.group import Commit
from forebay.pipeline.spec import OnOffsetLost
from forebay.planning.topics import TopicState
from forebay.runtime.lineage import Lineage, decode, observed, resume_at
from forebay.runtime.state import KeyedState, Mark, MemoryStore, Origin, Position, decode_position, doubt

ORIGIN = Origin("changelog-id", 12)
DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000


def doubt_of(mark: Mark | None, *, low: int = 0, end: int = 100) -> str | None:
    return doubt(mark, ORIGIN, low=low, end=end, now_ms=NOW_MS, keeps_deletes_ms=DAY_MS)


@pytest.mark.parametrize(
    "mark", [None, Mark(ORIGIN, 0, NOW_MS), Mark(ORIGIN, 100, NOW_MS), Mark(ORIGIN, 50, NOW_MS - DAY_MS)]
)
def test_a_store_that_fits_its_changelog_is_continued(mark):
    assert doubt_of(mark) is None


@pytest.mark.parametrize(
    ("mark", "word"),
    [
        (Mark(Origin("another", 12), 50, NOW_MS), "made again"),
        (Mark(Origin("changelog-id", 6), 50, NOW_MS), "6 partitions"),
        (Mark(ORIGIN, 101, NOW_MS), "beyond"),
        (Mark(ORIGIN, 9, NOW_MS), "before"),
        (Mark(ORIGIN, 50, NOW_MS - DAY_MS - 1), "older"),
        (Mark(ORIGIN, 50, NOW_MS + DAY_MS + 1), "future"),
    ],
)
def test_a_store_that_does_not_is_wiped_for_a_reason(mark, word):
    assert word in doubt_of(mark, low=10)


class Counter:
    """A live value."""

    def __init__(self, data: bytes | None) -> None:
        self.count = int(data or b"0")
        self.changed = False


def counting(store: MemoryStore, cache_bytes: int = 1 << 20) -> KeyedState[Counter]:
    return KeyedState(
        store,
        decode=Counter,
        encode=lambda counter: b"%d" % counter.count if counter.count else None,
        value_bytes=100,
        cache_bytes=cache_bytes,
    )


def add(state: KeyedState[Counter], key: bytes, number: int = 1) -> None:
    counter = state.live.get(key) or state.load(key)
    counter.count += number
    if not counter.changed:
        counter.changed = True
        state.changed.append((key, counter))


def test_only_what_was_committed_reaches_the_store():
    store = MemoryStore()
    state = counting(store)
    add(state, b"a")
    add(state, b"a")
    assert store.get(b"a") is None
    changes = state.changes()
    assert changes == {b"a": b"2"}
    state.committed(changes, Mark(ORIGIN, 7, NOW_MS))
    assert (store.get(b"a"), store.mark) == (b"2", Mark(ORIGIN, 7, NOW_MS))
    add(state, b"a")
    add(state, b"b")
    state.aborted()
    assert state.changes() == {}
    assert state.load(b"a").count == 2
    assert store.get(b"b") is None


def test_a_value_of_none_deletes():
    store = MemoryStore()
    state = counting(store)
    add(state, b"a")
    state.committed(state.changes(), Mark(ORIGIN, 1, NOW_MS))
    add(state, b"a", -1)
    assert state.changes() == {b"a": None}
    state.committed(state.changes(), Mark(ORIGIN, 2, NOW_MS))
    assert store.get(b"a") is None


def test_the_cache_is_bounded_and_what_left_it_is_read_again():
    state = counting(MemoryStore(), cache_bytes=100 * 2_000)
    for round_ in range(3):
        for number in range(5_000):
            add(state, b"%d" % number)
        state.committed(state.changes(), Mark(ORIGIN, round_, NOW_MS))
        assert len(state.live) <= 2_000
    assert state.load(b"0").count == 3


# -- where a partition goes on ----------------------------------------------------------------------------------------------

PRESENT = Lineage("input-id", {"changelog": "changelog-id"})


def at(commit: Commit | None, *positions: Position, policy: OnOffsetLost = OnOffsetLost.STOP) -> int | None:
    return resume_at("raw/3", commit, positions, PRESENT, policy)


def test_a_lineage_survives_its_encoding_and_foreign_metadata_is_none():
    assert decode(PRESENT.encode()) == PRESENT
    for foreign in ("", "{}", "null", "[]", '{"format": 2}', '{"format": 1, "input": 3, "changelogs": 1}', "\x00"):
        assert decode(foreign) is None
    assert decode_position(Position("x", 9).encode()) == Position("x", 9)
    for foreign in (None, b"", b"x", b"x y", b"x -1", "x ²".encode(), b"\xff 1 2"):
        assert decode_position(foreign) is None


@pytest.mark.parametrize("metadata", [PRESENT.encode(), ""])
def test_a_commit_that_fits_is_where_to_go_on(metadata):
    assert at(None) is None
    assert at(Commit(10, metadata)) == 10
    assert at(Commit(10, metadata), Position("input-id", 10)) == 10
    assert at(Commit(10, metadata), Position("input-id", 4)) == 10


def test_without_a_commit_the_state_knows():
    assert at(None, Position("input-id", 4), Position("input-id", 9)) == 9


def test_a_commit_before_the_state_is_refused():
    with pytest.raises(Refused, match=r"raw/3 stands at offset 9, .* 8"):
        at(Commit(8, PRESENT.encode()), Position("input-id", 9))


@pytest.mark.parametrize(
    ("commit", "positions"),
    [
        (Commit(8, Lineage("former", {}).encode()), ()),
        (Commit(8, Lineage("former", {}).encode()), (Position("former", 9),)),
        (None, (Position("former", 9),)),
    ],
)
def test_another_input_of_the_same_name_is_for_the_policy(commit, positions):
    with pytest.raises(Refused, match="deleted and made again"):
        at(commit, *positions)
    assert at(commit, *positions, policy=OnOffsetLost.EARLIEST) == 0


def test_state_of_the_former_input_is_no_obstacle_once_the_new_one_is_committed():
    assert at(Commit(2, PRESENT.encode()), Position("former", 9)) == 2


@pytest.mark.parametrize("policy", OnOffsetLost)
def test_a_changelog_that_was_made_again_is_refused_whatever_the_policy(policy):
    with pytest.raises(Refused, match="stateVersion"):
        at(Commit(2, Lineage("input-id", {"changelog": "former"}).encode()), policy=policy)
    assert at(Commit(2, Lineage("input-id", {"changelog of v0": "x"}).encode()), policy=policy) == 2


def test_state_with_another_number_of_partitions_than_the_input_is_refused():
    def topic(name: str, partitions: int) -> TopicState:
        return TopicState(name=name, partitions=partitions, replication_factor=1, topic_id=f"{name}-id")

    assert observed(topic("input", 3), [topic("changelog", 3)]) == PRESENT
    with pytest.raises(Refused, match="4 partitions"):
        observed(topic("input", 4), [topic("changelog", 3)])

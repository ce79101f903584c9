"""Write load traces for `forebay simulate`: one of each kind, with numbers drawn from a seed.

    python hack/load_traces.py                              # those in benchmarks/traces: seed 0
    python hack/load_traces.py --seed 7 --out /tmp/traces   # others of the same kinds

They are made for a stage of 12 partitions whose replicas do 2 000 records/s each. A row is held until the next one.
"""

import argparse
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path

TRACES = Path(__file__).resolve().parent.parent / "benchmarks" / "traces"
CAPACITY = 2_000
PARTITIONS = 12
ROW_S = 10
MINUTE = 60
HOUR = 3600

TOO_HOT_S = 90
"""No policy can do anything about a partition that is too much for one replica, so these seconds tell policies apart by nothing
but what they do afterwards."""

Rate = Callable[[float], float]


def step(rng: random.Random) -> list[tuple[float, ...]]:
    """A quiet beginning, a jump, and back."""
    low, high = rng.uniform(0.5, 0.9) * CAPACITY, rng.uniform(2.2, 4.5) * CAPACITY
    up, down = rng.uniform(8, 12) * MINUTE, rng.uniform(28, 34) * MINUTE
    return _rows(50 * MINUTE, lambda at: high if up <= at < down else low)


def ramp(rng: random.Random) -> list[tuple[float, ...]]:
    """Up, a while at the top, and down."""
    low, high = rng.uniform(0.3, 0.7) * CAPACITY, rng.uniform(5, 8) * CAPACITY
    up, stay, down = (rng.uniform(12, 22) * MINUTE for _ in range(3))
    begin = 5 * MINUTE

    def rate(at: float) -> float:
        risen = min(1.0, max(0.0, (at - begin) / up))
        fallen = min(1.0, max(0.0, (at - begin - up - stay) / down))
        return low + (high - low) * (risen - fallen)

    return _rows(begin + up + stay + down + 8 * MINUTE, rate)


def daily_wave(rng: random.Random) -> list[tuple[float, ...]]:
    """A day in four hours: night, a steep morning, two peaks, an evening."""
    low, high = rng.uniform(0.4, 0.8) * CAPACITY, rng.uniform(4.5, 7) * CAPACITY
    length, second, width = 4 * HOUR, rng.uniform(0.6, 0.9), rng.uniform(0.09, 0.13)
    sway = _sway(rng, 0.04, 120)

    def rate(at: float) -> float:
        day = at / length
        hills = math.exp(-(((day - 0.4) / width) ** 2)) + second * math.exp(-(((day - 0.7) / width) ** 2))
        return (low + (high - low) * min(1.0, hills)) * (1 + sway(at))

    return _rows(length, rate)


def spikes(rng: random.Random) -> list[tuple[float, ...]]:
    """Steady load with short, high spikes."""
    base = rng.uniform(0.6, 0.85) * CAPACITY
    each = []
    at = rng.uniform(4, 7) * MINUTE
    while at < 57 * MINUTE:
        each.append((at, at + rng.uniform(40, 120), rng.uniform(2.0, 5.0) * CAPACITY))
        at += rng.uniform(6, 11) * MINUTE
    return _rows(HOUR, lambda at: next((high for begin, end, high in each if begin <= at < end), base))


def slow_drift(rng: random.Random) -> list[tuple[float, ...]]:
    """A load that grows by a little all the time."""
    low, high = rng.uniform(0.7, 1.1) * CAPACITY, rng.uniform(2.2, 3.2) * CAPACITY
    sway = _sway(rng, 0.05, 60)
    return _rows(2 * HOUR, lambda at: (low + (high - low) * at / (2 * HOUR)) * (1 + sway(at)))


def outage_and_catch_up(rng: random.Random) -> list[tuple[float, ...]]:
    """The producers are cut off, and then send what they kept as fast as they can."""
    usual = rng.uniform(1.4, 2.2) * CAPACITY
    fast = rng.uniform(2.4, 3.2) * usual
    cut, back = rng.uniform(10, 14) * MINUTE, rng.uniform(20, 26) * MINUTE
    repaid = back + usual * (back - cut) / (fast - usual)

    def rate(at: float) -> float:
        return 0.0 if cut <= at < back else fast if back <= at < repaid else usual

    return _rows(55 * MINUTE, rate)


def hot_partition(rng: random.Random) -> list[tuple[float, ...]]:
    """One key grows: first beyond its fair share, for a while beyond what any replica can take."""
    total, hot = rng.uniform(1.5, 1.9) * CAPACITY, rng.randrange(PARTITIONS)
    warm, too_hot = rng.uniform(0.2, 0.35), rng.uniform(1.15, 1.4) * CAPACITY / total
    begin = rng.uniform(8, 12) * MINUTE
    rows = []
    for at in range(0, 50 * MINUTE, ROW_S):
        part = 1 / PARTITIONS
        if begin <= at < begin + 15 * MINUTE:
            part = warm
        elif begin + 15 * MINUTE <= at < begin + 15 * MINUTE + TOO_HOT_S:
            part = too_hot
        others = (1 - part) / (PARTITIONS - 1)
        weights = [round(part if number == hot else others, 4) for number in range(PARTITIONS)]
        rows.append((at, round(total), *weights))
    return rows


def idle_with_bursts(rng: random.Random) -> list[tuple[float, ...]]:
    """Next to nothing, and now and then a burst."""
    each = []
    at = rng.uniform(8, 14) * MINUTE
    while at < 110 * MINUTE:
        each.append((at, at + rng.uniform(40, 150), rng.uniform(1.5, 4.0) * CAPACITY))
        at += rng.uniform(12, 24) * MINUTE
    trickle = rng.uniform(0, 6)
    return _rows(2 * HOUR, lambda at: next((high for begin, end, high in each if begin <= at < end), trickle))


def noise_around_a_threshold(rng: random.Random) -> list[tuple[float, ...]]:
    """Load that sways about what a whole number of replicas can do."""
    middle = rng.choice([2, 3, 4]) * rng.uniform(0.9, 1.0) * CAPACITY
    quick, slow = _sway(rng, 0.1, 10), _sway(rng, 0.06, 90)
    return _rows(HOUR, lambda at: middle * max(0.1, 1 + quick(at) + slow(at)))


KINDS = (
    step,
    ramp,
    daily_wave,
    spikes,
    slow_drift,
    outage_and_catch_up,
    hot_partition,
    idle_with_bursts,
    noise_around_a_threshold,
)


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the numbers in the traces")
    parser.add_argument("--out", type=Path, default=TRACES, metavar="DIR", help="where to write them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        rows = kind(random.Random(f"{options.seed} {kind.__name__}"))  # noqa: S311 - a load, no secret
        file = options.out / f"{kind.__name__.replace('_', '-')}.csv"
        file.write_text(_csv(_changes(rows)))
        print(file)


def _rows(seconds: float, rate: Rate) -> list[tuple[float, ...]]:
    return [(at, round(max(0.0, rate(at)))) for at in range(0, round(seconds), ROW_S)]


def _sway(rng: random.Random, deviation: float, lasts_s: float) -> Rate:
    """Noise of that standard deviation whose values last for some time: an autoregressive process, in parts of the rate."""
    keep = math.exp(-ROW_S / lasts_s)
    values = [rng.gauss(0, deviation)]

    def value(at: float) -> float:
        while len(values) <= at / ROW_S:
            values.append(keep * values[-1] + rng.gauss(0, deviation * math.sqrt(1 - keep**2)))
        return values[int(at / ROW_S)]

    return value


def _changes(rows: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """The rows that differ from the one before, and the last two, whose distance is how long the last one holds."""
    kept = [row for before, row in itertools.pairwise(rows) if row[1:] != before[1:]]
    return sorted({rows[0], *kept, *rows[-2:]})


def _csv(rows: list[tuple[float, ...]]) -> str:
    weights = [f"weight_{number}" for number in range(len(rows[0]) - 2)]
    lines = [",".join(["seconds", "records_per_second", *weights])]
    return "\n".join(lines + [",".join(f"{cell:g}" for cell in row) for row in rows]) + "\n"


if __name__ == "__main__":
    main()

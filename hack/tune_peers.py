"""Search a setting for each peer of `forebay simulate` on the traces in benchmarks/traces, as hard for Forebay as it gets.

    python hack/tune_peers.py [keda] [numaflow] [flink] [--seeds 3]

Of every setting in the grids below the one wins whose seconds over the promise, summed over the traces, are the fewest among
those that take at most half as many replica-hours again as Forebay does (no setting of KEDA's keeps the promise at all with as
few as Forebay). The winners are written by hand into forebay_cli/simulate/policies.
"""

import argparse
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forebay_cli.simulate import traces, world
from forebay_cli.simulate.policies import Forebay
from forebay_cli.simulate.policies.flink import Flink, FlinkSettings
from forebay_cli.simulate.policies.keda import Keda, KedaSettings
from forebay_cli.simulate.policies.numaflow import Numaflow, NumaflowSettings

TRACES = Path(__file__).resolve().parent.parent / "benchmarks" / "traces"

DEARER = 1.5
"""Replica-hours that a winner may take, in Forebay's."""

KEDA = {
    "lag_threshold": [100, 200, 300, 400, 600, 1_000, 2_000, 4_000, 10_000],
    "even_distribution": [False, True],
    "polling_interval_s": [5.0],
    "min_replica_count": [1],
}
NUMAFLOW = {
    "target_processing_s": [1.0, 3.0],
    "lookback_s": [30.0, 120.0],
    "scale_up_cooldown_s": [15.0, 90.0],
    "scale_down_cooldown_s": [90.0, 300.0],
    "replicas_per_scale_up": [2, 12],
    "minimum": [1],
}
FLINK = {
    "metrics_window_s": [60.0, 180.0],
    "stabilization_s": [0.0],
    "utilization_target": [0.6, 0.75],
    "utilization_boundary": [0.15],
    "catch_up_s": [60.0, 300.0],
    "restart_s": [10.0],
    "scale_down_interval_s": [120.0, 600.0],
}
GRIDS = {
    "keda": (Keda, KedaSettings, KEDA),
    "numaflow": (Numaflow, NumaflowSettings, NUMAFLOW),
    "flink": (Flink, FlinkSettings, FLINK),
}


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(GRIDS)}; all of them by default")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        ours = np.sum(list(pool.map(partial(_tried, Forebay, seeds=options.seeds), _files())), axis=0)
        print(f"forebay: {ours[0]:.0f} s over, {ours[1]:.1f} replica-hours", flush=True)
        for name in options.peers or GRIDS:
            policy, settings, grid = GRIDS[name]
            best = None
            for values in _settings(grid):
                make = partial(policy, settings=settings(**values))
                over, hours = np.sum(list(pool.map(partial(_tried, make, seeds=options.seeds), _files())), axis=0)
                print(f"{name}: {over:.0f} s over, {hours:.1f} replica-hours: {values}", flush=True)
                if hours <= DEARER * ours[1] and (best is None or over < best[0]):
                    best = (over, hours, values)
            print(f"{name} BEST: {best}", flush=True)


def _tried(make: world.Make, file: Path, seeds: int) -> tuple[float, float]:
    outcome = world.simulate(world.arrivals(traces.load(file), world.Setting(seeds=seeds)), make)
    return float(np.median(outcome.seconds_over)), float(np.median(outcome.replica_hours))


def _files() -> list[Path]:
    return sorted(TRACES.glob("*.csv"))


def _settings(grid: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


if __name__ == "__main__":
    main()

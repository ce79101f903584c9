"""Every policy on every trace, in several processes; medians over the seeds."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forebay.planning.scaling import Log
from forebay_cli.simulate import traces, world
from forebay_cli.simulate.policies import POLICIES
from forebay_cli.simulate.policies.forebay import Forebay
from forebay_cli.simulate.traces import Trace
from forebay_cli.simulate.world import Arrivals, Policy, Setting

FIGURES = ("seconds_over", "p99_freshness_s", "replica_hours", "rescales", "partition_moves")
POINTS = 1500
"""Of a curve, at most: more cannot be seen."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one policy on one trace."""

    trace: str
    policy: str
    figures: dict[str, float]
    """Medians over the seeds, by name."""
    seconds: NDArray[np.float64]
    """Of the points of the first seed's curves."""
    replicas: NDArray[np.float64]
    behind: NDArray[np.float64]
    load: NDArray[np.float64]
    """Records per second of the trace."""
    log: Log = ()
    """Of the first seed, where the policy is ours."""


def policy_names(asked: Iterable[str]) -> tuple[str, ...]:
    """The policies that were asked for, in their usual order; ValueError names those that there are."""
    wanted = {name.strip() for names in asked for name in names.split(",") if name.strip()}
    if unknown := wanted - {"all", *POLICIES}:
        raise ValueError(f"{', '.join(sorted(unknown))}: there are all, {', '.join(POLICIES)}")
    return tuple(name for name in POLICIES if "all" in wanted or name in wanted)


def load_all(files: Sequence[Path], setting: Setting) -> list[Trace]:
    """All traces, each under a name of its own."""
    loaded = [traces.load(file) for file in files]
    names = [trace.name for trace in loaded]
    for trace in loaded:
        traces.check_partitions(trace, setting.partitions)
    return [
        trace if names.count(trace.name) == 1 else replace(trace, name=str(file.with_suffix("")))
        for trace, file in zip(loaded, files, strict=True)
    ]


def compare(
    loads: Sequence[Trace], names: Sequence[str], setting: Setting, *, jobs: int | None, say: Callable[[str], None]
) -> list[Result]:
    """The results, trace by trace, in the order of the names."""
    tasks = [(trace, name) for trace in loads for name in names]
    results: dict[tuple[str, str], Result] = {}
    pool = ProcessPoolExecutor(min(len(tasks), jobs or os.cpu_count() or 1))
    try:
        running: dict[Future[Result], Any] = {pool.submit(_run, trace, name, setting): None for trace, name in tasks}
        for future in as_completed(running):
            result = future.result()
            results[result.trace, result.policy] = result
            say(f"{len(results)} of {len(tasks)}: {result.policy} on {result.trace}")
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()
    return [results[trace.name, name] for trace, name in tasks]


def _run(trace: Trace, name: str, setting: Setting) -> Result:
    load = world.arrivals(trace, setting)
    made: list[Policy] = []

    def make(arrivals: Arrivals, index: int) -> Policy:
        made.append(POLICIES[name](arrivals, index))
        return made[-1]

    outcome = world.simulate(load, make)
    width = -(-load.steps // POINTS)
    edges = np.arange(0, load.steps, width)
    return Result(
        trace=trace.name,
        policy=name,
        figures={figure: round(float(np.median(getattr(outcome, figure))), 3) for figure in FIGURES},
        seconds=np.asarray(edges * setting.ranges.step, dtype=np.float64),
        replicas=outcome.replicas[edges, 0].astype(float),
        behind=np.maximum.reduceat(outcome.behind[:, 0], edges).astype(float),
        load=load.rates[edges],
        log=made[0].log if isinstance(made[0], Forebay) else (),
    )

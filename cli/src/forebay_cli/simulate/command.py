"""`forebay simulate`: usage, and what is missing for it."""

import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from forebay.errors import ForebayError

NEEDED = ("numpy", "matplotlib")


class NotInstalledError(ForebayError):
    """The packages that only the simulator needs are not there."""


class Rebalance(StrEnum):
    """Who stands still while partitions move."""

    COOPERATIVE = "cooperative"
    EAGER = "eager"


def simulate(  # noqa: PLR0917 - typer makes options of them
    trace: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE.csv",
            help="Load: seconds,records_per_second[,weight of each partition]. May be given several times. "
            "Some are in benchmarks/traces.",
        ),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="all, or names separated by commas: forebay, keda, keda-tuned, numaflow, numaflow-tuned, flink, flink-tuned, "
            "fixed (enough for the peak), maximum (what no replica can mend), oracle (knows what will come).",
        ),
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, max=1000, help="Of the topic.")] = 12,
    capacity: Annotated[
        float, typer.Option(min=1, help="Records per second that one replica can do, on average.")
    ] = 2000.0,
    freshness: Annotated[float, typer.Option(min=1, help="How many seconds the stage may be behind.")] = 10.0,
    min_replicas: Annotated[int, typer.Option(min=1, help="Of forebay, fixed and oracle; peers keep their own.")] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="Of everybody. Default: as many as partitions.")
    ] = None,
    scale_to_zero: Annotated[
        bool, typer.Option("--scale-to-zero", help="Let forebay and the oracle stop the last replica of an idle stage.")
    ] = False,
    rebalance: Annotated[
        Rebalance, typer.Option(help="Whether only partitions that move stand still, or all.")
    ] = Rebalance.COOPERATIVE,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How often each is run, with other dice each time.")] = 20,
    first_seed: Annotated[int, typer.Option(min=0, help="Of the dice.")] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the medians over the seeds as JSON.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw replicas and freshness over time, a PNG and an SVG for each trace."),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write every decision of forebay in the first run, with its inputs, as JSON lines."
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes. Default: one for each core.")] = None,
) -> None:
    """Compare scaling policies on a load: how fresh results are, at what cost.

    Forebay's decision is the code that runs in the operator. KEDA with its HorizontalPodAutoscaler, Numaflow and the Flink
    Kubernetes Operator decide after their documented formulas, at their defaults and at one setting tuned on the traces of
    the repository.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise NotInstalledError(
            f"`forebay simulate` needs {' and '.join(missing)}: pip install 'forebay-cli[simulate]', or `make simulate` in a "
            "clone"
        )
    from forebay_cli.run import preflight  # noqa: PLC0415 - loaded where it is used, as numpy is
    from forebay_cli.simulate import comparison, reporting  # noqa: PLC0415 - they import numpy
    from forebay_cli.simulate.world import Setting  # noqa: PLC0415 - so does this

    most = partitions if max_replicas is None else min(max_replicas, partitions)
    if min_replicas > most:
        raise typer.BadParameter(
            f"{min_replicas} is more than the {most} that are possible", param_hint="--min-replicas"
        )
    if report is not None and (problem := preflight.unwritable(report)):
        raise typer.BadParameter(problem, param_hint="--report")
    setting = Setting(
        partitions=partitions,
        capacity=capacity,
        freshness_s=freshness,
        min_replicas=min_replicas,
        max_replicas=most,
        scale_to_zero=scale_to_zero,
        is_eager=rebalance is Rebalance.EAGER,
        seeds=seeds,
        first_seed=first_seed,
    )
    try:
        names = comparison.policy_names(policy or ["all"])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--policy") from error
    loads = comparison.load_all(trace, setting)
    results = comparison.compare(loads, names, setting, jobs=jobs, say=_say)
    for line in reporting.table(results, setting):
        print(line)
    if report is not None:
        reporting.write_report(report, results)
    if decisions is not None:
        reporting.write_decisions(decisions, results)
    if plot is not None:
        from forebay_cli.simulate import drawing  # noqa: PLC0415 - it imports matplotlib, which takes a while

        for file in drawing.draw(plot, results, setting):
            _say(f"drawn: {file}")


def _say(text: str) -> None:
    print(f"forebay: {text}", file=sys.stderr, flush=True)

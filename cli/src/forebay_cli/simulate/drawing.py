"""Pictures: the load, the replicas and how far behind the stage was, of the first run, one picture for each trace."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from forebay_cli.simulate.comparison import Result
from forebay_cli.simulate.reporting import UnwritableError, file_name
from forebay_cli.simulate.world import Setting

COLOURS = {
    "forebay": "#0b6e4f",
    "keda": "#d1495b",
    "keda-tuned": "#e59aa4",
    "numaflow": "#edae49",
    "numaflow-tuned": "#f6d69a",
    "flink": "#3066be",
    "flink-tuned": "#98b3df",
    "fixed": "#999999",
    "maximum": "#bbbbbb",
    "oracle": "#222222",
}


def draw(folder: Path, results: Sequence[Result], setting: Setting) -> Iterator[Path]:
    """Write DIR/<trace>.png and .svg; their paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for trace in dict.fromkeys(result.trace for result in results):
            figure = picture([result for result in results if result.trace == trace], setting)
            for ending in ("png", "svg"):
                file = folder / f"{file_name(trace)}.{ending}"
                figure.savefig(file, dpi=120)
                yield file
    except OSError as error:
        raise UnwritableError(f"cannot draw into {folder}: {error.strerror}") from error


def picture(here: Sequence[Result], setting: Setting) -> Figure:
    """The three curves of every policy on one trace, over minutes."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    load, replicas, behind = figure.subplots(3, 1, sharex=True, height_ratios=(1, 2, 2))
    load.fill_between(here[0].seconds / 60, here[0].load, color="#cccccc", step="post")
    load.set_ylabel("records/s")
    load.set_title(here[0].trace)
    for result in here:
        style = {
            "color": COLOURS[result.policy],
            "linewidth": 2.0 if result.policy == "forebay" else 1.0,
            "linestyle": ":" if result.policy in {"fixed", "maximum", "oracle"} else "-",
        }
        replicas.step(result.seconds / 60, result.replicas, where="post", label=result.policy, **style)
        behind.plot(result.seconds / 60, result.behind, **style)
    replicas.set_ylabel("replicas")
    replicas.set_ylim(0, setting.max_replicas + 1)
    behind.axhline(setting.freshness_s, color="#d00000", linewidth=0.8, linestyle="--")
    behind.set_yscale("symlog", linthresh=setting.freshness_s)
    behind.set_ylim(bottom=0)
    behind.set_ylabel("seconds behind")
    behind.set_xlabel("minutes")
    figure.legend(loc="outside lower center", ncols=5)
    return figure

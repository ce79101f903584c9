"""`forebay validate` and `forebay schema`: what a Pipeline file may say."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from forebay.errors import InvalidPipeline
from forebay.pipeline import load
from forebay.pipeline import schema as schemas
from forebay.pipeline.spec import Pipeline


def validate(files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Pipeline files.")]) -> None:
    """Check Pipeline files and name every problem as `file:line: path: what is wrong, and what to do`.

    Exit code: 0 when all files are valid, 2 when one is not.
    """
    problems: list[str] = []
    for file in files:
        try:
            print(f"{file}: valid: {summary(load.load_file(file))}")
        except InvalidPipeline as invalid:
            problems += invalid.problems
            print(f"{file}: {_count(len(invalid.problems), 'problem')}", file=sys.stderr)
    if problems:
        raise InvalidPipeline(tuple(problems))


def schema() -> None:
    """Print the CustomResourceDefinition of Pipelines: `forebay schema | kubectl apply -f -`."""
    print(schemas.crd_yaml(), end="")


def summary(pipeline: Pipeline) -> str:
    """A Pipeline in one line."""
    spec = pipeline.spec
    counts = (
        (len(spec.topics), "topic"),
        (len(spec.producers), "producer"),
        (len(spec.processors), "processor"),
        (len(spec.sinks), "sink"),
    )
    return f"Pipeline {pipeline.metadata.name}: {', '.join(_count(number, noun) for number, noun in counts if number)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

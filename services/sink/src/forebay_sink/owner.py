"""Whose positions they are: several sinks may store in one database."""

from dataclasses import dataclass
from typing import Self

from forebay.pipeline.spec import Pipeline, Sink

POSITIONS_TABLE = "forebay_positions"
"""In the database of the data, for both must change in one transaction."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A sink of a Pipeline, reading a topic."""

    pipeline: str
    """namespace.name"""
    sink: str
    topic: str

    @classmethod
    def of(cls, pipeline: Pipeline, sink: Sink) -> Self:
        """The owner that a stage is."""
        return cls(f"{pipeline.metadata.namespace}.{pipeline.metadata.name}", sink.name, sink.from_)

"""What must be in order before anything starts: Secrets of the destinations, a report that can be written."""

import os
from collections.abc import Iterator
from pathlib import Path

from forebay.pipeline.spec import Pipeline, Postgres

_LOGIN_KEYS = ("host", "port", "dbname", "user", "password")


def missing_secrets(pipeline: Pipeline, secrets: Path | None) -> Iterator[str]:
    """A sentence for each Secret that a sink needs and --secrets does not hold. Kafka is replaced, its Secrets are not needed."""
    for sink in pipeline.spec.sinks:
        if sink.destination.postgres is not None:
            yield from _missing(sink.name, sink.destination.postgres, secrets)


def _missing(sink: str, postgres: Postgres, secrets: Path | None) -> Iterator[str]:
    name = postgres.secret_ref.name
    if secrets is None:
        yield f"sink {sink} needs Secret {name}: give its folder with --secrets DIR, as the file DIR/{name}/uri"
        return
    folder = secrets / name
    if (folder / "uri").is_file():
        return
    absent = [key for key in _LOGIN_KEYS if not (folder / key).is_file()]
    if absent:
        keys = ", ".join(_LOGIN_KEYS)
        yield (
            f"sink {sink} needs Secret {name}, and {folder} (from --secrets) has neither the file uri nor all of {keys} "
            f"(missing: {', '.join(absent)})"
        )


def unwritable(report: Path) -> str | None:
    """Why a report could not be written there, None when it can."""
    if report.is_dir():
        return f"{report} is a folder: name a file"
    if not report.parent.is_dir():
        return f"the folder {report.parent} does not exist: make it, or name another file"
    if not os.access(report.parent, os.W_OK):
        return f"the folder {report.parent} cannot be written: name another file"
    return None

"""`python -m forebay_sink`: one replica of a sink."""

import sys
from typing import Any

import forebay.starting  # noqa: F401 - before what takes long to load
from forebay.errors import Refused
from forebay.pipeline import fields
from forebay.pipeline.spec import Sink
from forebay.runtime import service
from forebay.runtime.service import Replica
from forebay.runtime.storing import Destination, StoringLoop
from forebay_sink.owner import Owner


def destination_of(replica: Replica[Sink]) -> Destination[Any]:
    """The destination that the stage names. Each client library is imported only where it is used."""
    destination, settings = replica.stage.destination, replica.settings
    known = fields.fields_of(replica.pipeline.spec, replica.stage.from_)
    owner = Owner.of(replica.pipeline, replica.stage)
    if destination.duckdb is not None:
        from forebay_sink.destinations.duckdb import DuckDBFile  # noqa: PLC0415

        return DuckDBFile(destination.duckdb, folder=settings.data, fields=known, owner=owner)
    if destination.postgres is not None:
        from forebay_sink.destinations.postgres import PostgresTable  # noqa: PLC0415

        return PostgresTable(destination.postgres, secrets=settings.secrets, fields=known, owner=owner)
    if destination.stdout is not None:
        from forebay_sink.destinations.stdout import Lines  # noqa: PLC0415

        return Lines(sys.stdout.fileno())
    raise Refused(f"this version has no destination {destination.kind!r}")


def body(replica: Replica[Sink]) -> None:
    """Store until asked to stop."""
    StoringLoop(replica, destination_of(replica)).run()


if __name__ == "__main__":
    sys.exit(service.run(Sink, body))

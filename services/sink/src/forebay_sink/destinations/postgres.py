"""A PostgreSQL table, filled by binary COPY.

The positions' rows are locked by the last statement before COMMIT, so a replica that is stopped somewhere in its transaction
hardly ever holds them; if it does, or if it is the user's unique index that makes its successor wait, the server ends the
idle transaction after 15 s. Once it goes on, its connection is gone or its move finds the row changed: either way nothing of
its batch is stored.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo, sql
from psycopg.types.json import set_json_dumps

from forebay.errors import LostOwnership, MissingSecret, Refused, TryLater
from forebay.kafka.settings import read_secret
from forebay.pipeline.spec import FieldType, Postgres, SecretRef
from forebay.runtime.storing import Move, Unstorable
from forebay_sink import tables
from forebay_sink.destinations.database import DatabaseTable
from forebay_sink.owner import POSITIONS_TABLE, Owner
from forebay_sink.rows import Fields, Row
from forebay_sink.tables import Dialect, Found

DIALECT = Dialect(
    types={
        FieldType.STRING: ("text", "character varying", "character"),
        FieldType.INTEGER: ("bigint",),
        FieldType.NUMBER: ("double precision",),
        FieldType.BOOLEAN: ("boolean",),
        FieldType.JSON: ("jsonb", "json"),
    },
    is_case_sensitive=True,
    longest_name_bytes=63,
)

_REFUSALS = frozenset({"22", "23", "44", "54", "P0"})
"""SQLSTATE classes that a row brings about: its data, a constraint, a view's check, a limit, a trigger's exception."""

_KEEPALIVE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_SESSION = """
    SET idle_in_transaction_session_timeout = '15s'; SET lock_timeout = '20s'; SET statement_timeout = '60s';
    SET client_encoding = 'UTF8'"""
"""15 s is longer than dead letters may take to be acknowledged, and little beyond the group's session time-out of 10 s."""

_SETUP_LOCK = 0x666F7265626179
"""Advisory lock: replicas that start together create tables one after the other."""


class PostgresTable(DatabaseTable[psycopg.Connection[Any]]):
    """A sink's table, and the positions beside it in its schema; the Secret is read anew for each connection."""

    errors = psycopg.Error

    def __init__(self, spec: Postgres, *, secrets: Path | None, fields: Fields | None, owner: Owner) -> None:
        super().__init__(fields=fields, owner=owner, dialect=DIALECT, refuses_nul=True)
        self._spec, self._secrets = spec, secrets
        self._table = sql.Identifier(spec.db_schema, spec.table)
        self._positions = sql.Identifier(spec.db_schema, POSITIONS_TABLE)
        self._types = [DIALECT.created(field) for field in self._decoder.fields]

    @property
    def _name(self) -> str:
        return f"table {self._full_name}"

    @staticmethod
    def _words(error: BaseException) -> str:
        return " ".join(str(error).split())

    def _read_positions(self, partitions: Sequence[int]) -> dict[int, int | None]:
        owner, numbers = self._owner, list(partitions)
        self._sql.execute(
            sql.SQL("INSERT INTO {} SELECT %s, %s, %s, %s, unnest(%s::int[]), NULL ON CONFLICT DO NOTHING").format(
                self._positions
            ),
            [owner.pipeline, owner.sink, owner.topic, self._topic_id, numbers],
        )
        return dict(
            self._sql.execute(
                sql.SQL(
                    'SELECT "partition", next_offset FROM {} '
                    'WHERE pipeline = %s AND sink = %s AND topic_id = %s AND "partition" = ANY(%s)'
                ).format(self._positions),
                [owner.pipeline, owner.sink, self._topic_id, numbers],
            ).fetchall()
        )

    def _transact(self, rows: Sequence[Row], moves: Sequence[Move], before_commit: Callable[[], None]) -> None:
        with self._sql.transaction():
            if rows:
                self._copy(rows)
            before_commit()
            self._move(moves)

    def _connect(self) -> psycopg.Connection[Any]:
        parameters = connection_parameters(self._secrets, self._spec.secret_ref)
        try:
            connection = psycopg.connect(**parameters, autocommit=True, prepare_threshold=None)
            connection.execute(_SESSION)
        except psycopg.Error as error:
            cure = "check address, user and password in the Secret"
            if "SSL" in str(error):
                cure = "check sslmode and ca.crt in the Secret (sslmode: disable is for a server without TLS)"
            raise TryLater(
                f"PostgreSQL of Secret {self._spec.secret_ref.name!r} cannot be reached: {self._words(error)}: {cure}"
            ) from None  # libpq's own words, which hold no password; the cause's frames would
        set_json_dumps(_unchanged, connection)
        return connection

    def _prepare_tables(self) -> None:
        with self._sql.transaction():
            self._sql.execute("SELECT pg_advisory_xact_lock(%s)", [_SETUP_LOCK])
            schema = tables.quoted(self._spec.db_schema)
            if self._sql.execute("SELECT to_regnamespace(%s)", [schema]).fetchone() == (None,):
                raise TryLater(f"there is no schema {self._spec.db_schema}: create it with CREATE SCHEMA {schema}")
            if (kind := self._kind_of(self._spec.table)) is None:
                self._sql.execute(tables.create(self._full_name, self._decoder.fields, DIALECT))
            elif kind not in ("r", "p", "f"):
                raise Refused(
                    f"{self._full_name} is no table: name a table in the destination, rows are copied into it"
                )
            else:
                self._check()
            if self._kind_of(POSITIONS_TABLE) is None:
                self._sql.execute(
                    sql.SQL(
                        "CREATE TABLE {} (pipeline text, sink text, topic text, topic_id text, "
                        '"partition" integer, next_offset bigint, PRIMARY KEY (pipeline, sink, topic_id, "partition"))'
                    ).format(self._positions)
                )

    @property
    def _full_name(self) -> str:
        return f"{tables.quoted(self._spec.db_schema)}.{tables.quoted(self._spec.table)}"

    def _kind_of(self, table: str) -> str | None:
        found = self._sql.execute(
            "SELECT relkind::text FROM pg_class WHERE relname = %s AND relnamespace = to_regnamespace(%s)",
            [table, tables.quoted(self._spec.db_schema)],
        ).fetchone()
        return found[0] if found else None

    def _check(self) -> None:
        """The columns' own types are also those that COPY must send."""
        found = self._sql.execute(
            "SELECT attname, format_type(atttypid, NULL), attnotnull AND NOT atthasdef AND attidentity = '', "
            "attgenerated <> '' OR attidentity = 'a' FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [self._full_name],
        ).fetchall()
        columns = {name: Found(name, kind, must_be_given=bare, is_generated=own) for name, kind, bare, own in found}
        tables.check(self._full_name, self._decoder.fields, columns.values(), DIALECT)
        self._types = [columns[field.name].type for field in self._decoder.fields]

    def _copy(self, rows: Sequence[Row]) -> None:
        columns = sql.SQL(", ").join(sql.Identifier(field.name) for field in self._decoder.fields)
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(self._table, columns)
        try:
            with self._sql.cursor() as cursor:
                with cursor.copy(statement) as copy:
                    copy.set_types(self._types)
                    write = copy.write_row
                    for row in rows:
                        write(row)
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        except psycopg.Error as error:
            if _is_refusal(error):
                raise Unstorable("rejected-by-database", self._words(error)) from error
            raise

    def _move(self, moves: Sequence[Move]) -> None:
        owner = self._owner
        moved = self._sql.execute(
            sql.SQL(
                "UPDATE {} AS kept SET next_offset = moved.next_offset "
                "FROM unnest(%s::int[], %s::bigint[], %s::bigint[]) AS moved(number, expected, next_offset) "
                "WHERE kept.pipeline = %s AND kept.sink = %s AND kept.topic_id = %s "
                'AND kept."partition" = moved.number AND kept.next_offset IS NOT DISTINCT FROM moved.expected'
            ).format(self._positions),
            [*map(list, zip(*moves, strict=True)), owner.pipeline, owner.sink, self._topic_id],
        ).rowcount
        if moved != len(moves):
            raise LostOwnership(f"{len(moves) - moved} of {len(moves)} partitions were moved on by another process")


def connection_parameters(secrets: Path | None, ref: SecretRef) -> dict[str, Any]:
    """libpq's parameters from the Secret: its key `uri`, or else host, port, dbname, user and password.

    `sslmode` is what the Secret says, else verify-full where it holds a `ca.crt`, else require: a password is not sent
    over a connection that anybody can read unless somebody asked for that.
    """
    uri = _optional(secrets, ref, "uri")
    if uri is not None:
        try:
            parameters = conninfo.conninfo_to_dict(uri)
        except psycopg.Error:
            raise MissingSecret(
                f"key 'uri' of Secret {ref.name!r} is no PostgreSQL URI: write postgresql://user:password@host:5432/dbname"
            ) from None  # the cause quotes the URI
    else:
        parameters = {key: read_secret(secrets, ref, key) for key in ("host", "port", "dbname", "user", "password")}
    if (sslmode := _optional(secrets, ref, "sslmode")) is not None:
        parameters["sslmode"] = sslmode
    if secrets is not None and _optional(secrets, ref, "ca.crt") is not None:
        parameters["sslrootcert"] = str(secrets / ref.name / "ca.crt")
        parameters.setdefault("sslmode", "verify-full")
    parameters.setdefault("sslmode", "require")
    return {"application_name": "forebay", **parameters, **_KEEPALIVE}


def _optional(secrets: Path | None, ref: SecretRef, key: str) -> str | None:
    if secrets is None or not (secrets / ref.name / key).exists():
        return None
    return read_secret(secrets, ref, key)


def _is_refusal(error: psycopg.Error) -> bool:
    """Whether the row is at fault. Without a SQLSTATE the client refused to send a value."""
    return isinstance(error, psycopg.DataError) if error.sqlstate is None else error.sqlstate[:2] in _REFUSALS


def _unchanged(document: Any) -> str:
    """JSON columns are given JSON text."""
    return str(document)

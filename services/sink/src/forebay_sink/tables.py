"""Tables as sinks see them: what a topic's fields need, and what is wrong with a table that exists already. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from forebay.errors import Refused
from forebay.pipeline.spec import FieldType, RecordField


@dataclass(frozen=True, slots=True)
class Found:
    """A column of an existing table."""

    name: str
    type: str
    """As the database spells it, without a length."""
    must_be_given: bool = False
    """NOT NULL, and no default that would fill it."""
    is_generated: bool = False
    """Computed by the database, which refuses values for it."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a database names the types that fields become."""

    types: Mapping[FieldType, Sequence[str]]
    """The type that a column is created with, then others that hold the field as well."""
    is_case_sensitive: bool
    longest_name_bytes: int

    def created(self, field: RecordField) -> str:
        """The type that the field's column is created with."""
        return self.types[field.type][0]

    def same(self, name: str) -> str:
        """Names of one column are equal in this form."""
        return name if self.is_case_sensitive else name.lower()


def quoted(name: str) -> str:
    """The name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def create(table: str, fields: Iterable[RecordField], dialect: Dialect) -> str:
    """The statement that creates the table; every column is nullable, for a record may lack any field."""
    columns = ", ".join(f"{quoted(field.name)} {dialect.created(field)}" for field in fields)
    return f"CREATE TABLE {table} ({columns})"


def check_names(fields: Sequence[RecordField], dialect: Dialect) -> None:
    """Refused when the fields cannot be told apart, or be named, as columns of this database."""
    seen: dict[str, str] = {}
    for field in fields:
        if len(field.name.encode()) > dialect.longest_name_bytes:
            raise Refused(
                f"field {field.name!r} cannot become a column: the database takes names of at most "
                f"{dialect.longest_name_bytes} bytes; rename the field"
            )
        other = seen.setdefault(dialect.same(field.name), field.name)
        if other != field.name:
            raise Refused(
                f"fields {other!r} and {field.name!r} would be one column, for the database ignores case: rename one"
            )


def check(table: str, fields: Sequence[RecordField], found: Iterable[Found], dialect: Dialect) -> None:
    """Refused, naming every column that does not fit and the cure, unless the fields can be stored in the table."""
    problems = list(_problems(table, fields, {dialect.same(column.name): column for column in found}, dialect))
    if problems:
        raise Refused(
            f"table {table} does not fit the records: {'; '.join(problems)}; or name another table in the destination"
        )


def _problems(
    table: str, fields: Sequence[RecordField], columns: Mapping[str, Found], dialect: Dialect
) -> Iterator[str]:
    for field in fields:
        column, wanted = columns.get(dialect.same(field.name)), dialect.created(field)
        if column is None:
            yield f"it has no column {field.name}: ALTER TABLE {table} ADD COLUMN {quoted(field.name)} {wanted}"
        elif column.is_generated:
            yield f"column {column.name} is generated, but the records hold a {field.type} for it: rename the column"
        elif column.type not in dialect.types[field.type]:
            yield (
                f"column {column.name} is {column.type}, but field type {field.type} needs {wanted}: "
                f"ALTER TABLE {table} ALTER COLUMN {quoted(column.name)} TYPE {wanted}"
            )
    given = {dialect.same(field.name) for field in fields}
    for name, column in columns.items():
        if column.must_be_given and name not in given:
            yield (
                f"column {column.name} is NOT NULL without a default, but the records have no such field: "
                f"ALTER TABLE {table} ALTER COLUMN {quoted(column.name)} DROP NOT NULL"
            )

import pytest

from forebay.errors import Refused
from forebay.pipeline.spec import FieldType, RecordField
from forebay_sink import tables
from forebay_sink.tables import Dialect, Found

DIALECT = Dialect(
    types={
        FieldType.STRING: ("text", "character varying"),
        FieldType.INTEGER: ("bigint",),
        FieldType.NUMBER: ("double precision",),
        FieldType.BOOLEAN: ("boolean",),
        FieldType.JSON: ("jsonb",),
    },
    is_case_sensitive=False,
    longest_name_bytes=10,
)


def fields(**types: str) -> list[RecordField]:
    return [RecordField(name=name, type=FieldType(kind)) for name, kind in types.items()]


def refusal(wanted, *found: Found) -> str:
    with pytest.raises(Refused) as refused:
        tables.check("t", wanted, found, DIALECT)
    return str(refused.value)


def test_a_created_table_passes_its_own_check():
    wanted = fields(a="string", b="integer", c="number", d="boolean", e="json")

    assert tables.create("t", wanted, DIALECT) == (
        'CREATE TABLE t ("a" text, "b" bigint, "c" double precision, "d" boolean, "e" jsonb)'
    )
    tables.check("t", wanted, [Found(field.name, DIALECT.created(field)) for field in wanted], DIALECT)


def test_a_table_may_have_more_columns_than_fields_and_other_types_that_hold_them():
    tables.check("t", fields(a="string"), [Found("A", "character varying"), Found("id", "bigint")], DIALECT)


def test_every_problem_of_a_table_is_told_with_its_cure():
    told = refusal(
        fields(a="string", b="integer", c="number"),
        Found("b", "integer"),
        Found("c", "double precision", is_generated=True),
        Found("site", "text", must_be_given=True),
    )

    assert told == (
        "table t does not fit the records: "
        'it has no column a: ALTER TABLE t ADD COLUMN "a" text; '
        'column b is integer, but field type integer needs bigint: ALTER TABLE t ALTER COLUMN "b" TYPE bigint; '
        "column c is generated, but the records hold a number for it: rename the column; "
        "column site is NOT NULL without a default, but the records have no such field: "
        'ALTER TABLE t ALTER COLUMN "site" DROP NOT NULL; or name another table in the destination'
    )


def test_a_column_that_must_be_given_is_given_by_its_field():
    tables.check("t", fields(a="string"), [Found("a", "text", must_be_given=True)], DIALECT)


def test_fields_that_only_differ_in_case_are_refused_where_the_database_ignores_case():
    with pytest.raises(Refused, match="'a' and 'A' would be one column"):
        tables.check_names(fields(a="string", A="string"), DIALECT)


def test_names_are_measured_in_bytes():
    with pytest.raises(Refused, match="at most 10 bytes"):
        tables.check_names(fields(éééééé="string"), DIALECT)


def test_quotes_in_names_are_doubled():
    assert tables.quoted('a"; DROP TABLE x --') == '"a""; DROP TABLE x --"'

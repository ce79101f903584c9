"""Keeps the records for which every condition holds."""

from collections.abc import Callable, Sequence
from typing import Any

from forebay.pipeline.spec import Condition, Filter
from forebay_processor.rows import MISSING, Rows

Mask = list[bool]


class FilterTransform:
    """Drops rows; counts how many."""

    def __init__(self, spec: Filter) -> None:
        self._tests = [(condition.field, test(condition)) for condition in spec.where]
        self.dropped = 0

    def apply(self, rows: Rows) -> None:
        """Keep the rows that pass every test."""
        for field, passes in self._tests:
            mask = [passes(value) for value in rows.column(field)]
            if not all(mask):
                self.dropped += mask.count(False)
                rows.keep(mask)


def test(condition: Condition) -> Callable[[Any], bool]:
    """The condition as a function of the field's value, MISSING when the record lacks it.

    A number test fails for what is no number, a text test for what is no text.
    """
    tests: list[Callable[[Any], bool]] = []
    if condition.exists is not None:
        wanted = condition.exists
        tests.append(lambda value: (value is not MISSING and value is not None) is wanted)
    low, high = condition.min, condition.max
    if low is not None or high is not None:
        tests.append(
            lambda value: (
                type(value) in (int, float) and (low is None or value >= low) and (high is None or value <= high)
            )
        )
    if condition.one_of is not None:
        texts = frozenset(condition.one_of)
        tests.append(lambda value: isinstance(value, str) and value in texts)
    return tests[0] if len(tests) == 1 else _all(tests)


def _all(tests: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    return lambda value: all(each(value) for each in tests)

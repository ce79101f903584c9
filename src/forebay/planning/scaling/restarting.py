"""What a restart of whoever decides must not forget, as a few plain figures: a Pipeline's status holds them.

They are read back from where anybody with the right to do so may have written: whatever is not a figure of ours, or an
impossible one, counts as never measured.
"""

import math
from collections.abc import Mapping
from typing import Any

from forebay.planning.scaling.measuring import Lasting, Memory

Kept = dict[str, float]

_NEAR = 0.25
"""Figures are written again when they have moved by more: measuring them anew takes less time than reading about it."""
_LEAST = 1e-6
_FASTEST = 1e9
_SLOWEST_S = 3_600.0


def remembered(memory: Memory, before: Mapping[str, Any] | None = None) -> Kept:
    """The figures to write down, rounded; those that were written `before`, unless something changed since.

    A change is another number of replicas, or a figure that has moved by a quarter.
    """
    lasting = memory.lasting
    figures = {
        "changedAt": None if lasting.changed_at is None else float(round(lasting.changed_at)),
        "capacity": lasting.capacity,
        "fastest": lasting.fastest or None,
        "scaleOutSeconds": lasting.scale_out_s,
        "scaleInSeconds": lasting.scale_in_s,
    }
    fresh = {name: _rounded(name, figure) for name, figure in figures.items() if figure is not None}
    return dict(before) if before is not None and _says_the_same(before, fresh) else fresh


def recalled(kept: object, now: float) -> Memory:
    """What was written down by `remembered`; nothing of it, or of a part of it, where it is none of ours.

    Args:
        kept: what stands there.
        now: seconds since the epoch; a change cannot lie after it.
    """
    figures: Mapping[Any, Any] = kept if isinstance(kept, Mapping) else {}
    capacity, fastest = _within(figures.get("capacity"), _FASTEST), _within(figures.get("fastest"), _FASTEST)
    scale_out_s = _within(figures.get("scaleOutSeconds"), _SLOWEST_S)
    scale_in_s = _within(figures.get("scaleInSeconds"), _SLOWEST_S)
    plain = Lasting()
    return Memory(
        lasting=Lasting(
            capacity=capacity,
            fastest=plain.fastest if fastest is None else fastest,
            scale_out_s=plain.scale_out_s if scale_out_s is None else scale_out_s,
            scale_in_s=plain.scale_in_s if scale_in_s is None else scale_in_s,
            changed_at=_within(figures.get("changedAt"), now + 1),  # it was rounded
        )
    )


def _within(value: object, most: float) -> float | None:
    """A figure that is neither nothing nor above the most there can be; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if _LEAST <= value <= most else None  # no comparison holds for NaN


def _rounded(name: str, figure: float) -> float:
    """Times of change to the second, everything else to three digits."""
    if name == "changedAt" or figure <= 0:
        return figure
    return round(figure, 2 - math.floor(math.log10(figure)))


def _says_the_same(before: Mapping[str, Any], fresh: Mapping[str, float]) -> bool:
    if before.keys() != fresh.keys() or before.get("changedAt") != fresh.get("changedAt"):
        return False
    return all(_is_near(before[name], figure) for name, figure in fresh.items())


def _is_near(before: object, figure: float) -> bool:
    known = _within(before, math.inf)
    return known is not None and abs(known - figure) <= _NEAR * max(known, figure)

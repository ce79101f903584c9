"""Durations as people write them."""

import re

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)")


def parse_duration(text: str) -> float:
    """The seconds in a text like 30s, 5m, 1h30m or 250ms; ValueError says what is expected."""
    parts = _DURATION.findall(text)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise ValueError(f"{text!r} is no duration; write a number and its unit, such as 30s, 5m or 1h30m")
    return seconds


def spoken(seconds: float) -> str:
    """A duration in the shortest form that people read at a glance: 4.2 s, 1:05, 2:00:10."""
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

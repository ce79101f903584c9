"""A record as users and services see it, its headers, its codecs."""

from forebay.messages.record import Record, State

__all__ = ["Record", "State"]

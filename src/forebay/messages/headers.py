"""The headers that Forebay puts on records.

Sampled records (by default one in a thousand) carry the time at which they entered the pipeline through every stage, so
that latency is measured end to end. Dead letters carry why and whence.
"""

from collections.abc import Sequence

Headers = list[tuple[str, bytes]]

INGEST_TIME = "forebay-ingest-ms"
"""Epoch milliseconds, as decimal text, at which the producer took the event in."""
TRACE_CONTEXT = "traceparent"
"""W3C trace context; rides on the records that carry an ingest time."""

REASON = "forebay-dlq-reason"
"""A short constant word: malformed, invalid-field, python-error, too-large, rejected-by-kafka, ..."""
DETAIL = "forebay-dlq-detail"
"""What was wrong, in a sentence of at most 500 characters."""
STAGE = "forebay-dlq-stage"
SOURCE_TOPIC = "forebay-dlq-topic"
SOURCE_PARTITION = "forebay-dlq-partition"
SOURCE_OFFSET = "forebay-dlq-offset"

SAMPLE_EVERY = 1000
"""One record in this many carries the ingest time."""

STATE_POSITION = "forebay-position"
"""In changelogs, on the last record of each transaction: where in the input the state stands."""

_DETAIL_CHARACTERS = 500
_LATEST_MS = 253_402_300_799_999
"""The end of the year 9999."""


def dead_letter(*, reason: str, detail: str, stage: str, topic: str, partition: int, offset: int) -> Headers:
    """The headers that tell why a record is a dead letter and where it stood."""
    return [
        (REASON, reason.encode()),
        (DETAIL, detail[:_DETAIL_CHARACTERS].encode(errors="replace")),
        (STAGE, stage.encode()),
        (SOURCE_TOPIC, topic.encode()),
        (SOURCE_PARTITION, str(partition).encode()),
        (SOURCE_OFFSET, str(offset).encode()),
    ]


def ingest_time_ms(headers: Sequence[tuple[str, bytes | str | None]] | None) -> int | None:
    """The ingest time that the headers carry, None where there is none or it is no time."""
    for name, value in headers or ():
        if name == INGEST_TIME and value is not None:
            try:
                time_ms = int(value)
            except ValueError:
                return None
            return time_ms if 0 <= time_ms <= _LATEST_MS else None
    return None


def onward(headers: Sequence[tuple[str, bytes | str | None]] | None) -> Headers:
    """The headers that a stage passes on to what it writes: all that it was given, but for those of dead letters."""
    return [
        (name, value.encode() if isinstance(value, str) else value)
        for name, value in headers or ()
        if value is not None and not name.startswith("forebay-dlq-")
    ]

"""What a dead letter looks like, and those of a stage whose output is no Kafka transaction.

These are sent at least once, by an idempotent producer: `send` returns only when every letter is acknowledged, so that a
caller may then forget the records they stand for.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException

from forebay.errors import TryLater
from forebay.kafka import clients
from forebay.kafka.errors import ClientErrors
from forebay.kafka.settings import Properties
from forebay.messages import headers
from forebay.messages.headers import Headers

log = structlog.get_logger()

Letter = tuple[Any, str, str]
"""The message that was consumed, the reason in a word, the detail in a sentence."""

_LAST_FORM = 2
_RESERVE_S = 5.0
"""How much longer than the delivery's own time-out to wait for its report."""


class Form(NamedTuple):
    """A dead letter as it is written."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def forms(message: Any, *, reason: str, detail: str, stage: str) -> tuple[Form, Form, Form]:
    """The letter of a consumed message: whole, without its value, and with nothing but where it stands and why.

    A topic that refuses one for its size is given the next.
    """
    why = headers.dead_letter(
        reason=reason,
        detail=detail,
        stage=stage,
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
    )
    key, passed_on = message.key(), headers.onward(message.headers())
    return Form(key, message.value(), passed_on + why), Form(key, None, passed_on + why), Form(None, None, why)


class DeadLetterProducer:
    """Writes the dead letters of one stage to one topic. `properties` are those of `settings.plain_producer`."""

    def __init__(self, properties: Properties, *, topic: str, stage: str) -> None:
        self._topic, self._stage = topic, stage
        self._patience_s = properties["message.timeout.ms"] / 1000 + _RESERVE_S
        self._producer = clients.producer({**properties, "error_cb": ClientErrors()})

    def send(self, letters: Iterable[Letter]) -> None:
        """Write letters and wait until they are acknowledged; TryLater when they are not. See `forms`."""
        too_large = self._send(letters, 0)
        if too_large:
            log.warning("dead letters were too large to be kept whole", records=len(too_large))
            self._send(self._send(too_large, 1), 2)

    def close(self) -> None:
        """Let go of what was not acknowledged."""
        self._producer.purge()
        self._producer.flush(1)

    def _send(self, letters: Iterable[Letter], form: int) -> list[Letter]:
        """Write the letters in one of their forms; returns those that are too large for the topic, but of the last form."""
        too_large: list[Letter] = []
        failures: list[KafkaError] = []
        for letter in letters:

            def report(error: KafkaError | None, _message: object, letter: Letter = letter) -> None:
                if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE and form < _LAST_FORM:
                    too_large.append(letter)
                elif error is not None:
                    failures.append(error)

            self._queue(letter, form, report)
        self._flush(failures)
        return too_large

    def _queue(self, letter: Letter, form: int, report: Callable[[KafkaError | None, Any], None]) -> None:
        message, reason, detail = letter
        key, value, explained = forms(message, reason=reason, detail=detail, stage=self._stage)[form]
        while True:
            try:
                self._producer.produce(self._topic, value, key, headers=explained, on_delivery=report)  # type: ignore[arg-type]
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as exception:  # refused by the client itself
                report(exception.args[0], None)
                return
            else:
                return

    def _flush(self, failures: list[KafkaError]) -> None:
        left = self._producer.flush(self._patience_s)
        if left:
            self._producer.purge()
            self._producer.flush(1)
        if left or failures:
            reason = failures[0].str() if failures else f"no answer within {self._patience_s:g} s"
            raise TryLater(
                f"dead letters cannot be written to topic {self._topic}: {reason}: check the topic and brokers"
            )

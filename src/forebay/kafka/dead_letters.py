"""Dead letters of a stage whose output is no Kafka transaction: sent at least once, by an idempotent producer.

`send` returns only when every letter is acknowledged, so that a caller may then forget the records they stand for.
"""

from collections.abc import Callable, Iterable
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException

from forebay.errors import TryLater
from forebay.kafka import clients
from forebay.kafka.errors import ClientErrors
from forebay.kafka.settings import Properties
from forebay.messages import headers

log = structlog.get_logger()

Letter = tuple[Any, str, str]
"""The message that was consumed, the reason in a word, the detail in a sentence."""

_RESERVE_S = 5.0
"""How much longer than the delivery's own time-out to wait for its report."""


class DeadLetterProducer:
    """Writes the dead letters of one stage to one topic. `properties` are those of `settings.plain_producer`."""

    def __init__(self, properties: Properties, *, topic: str, stage: str) -> None:
        self._topic, self._stage = topic, stage
        self._patience_s = properties["message.timeout.ms"] / 1000 + _RESERVE_S
        self._producer = clients.producer({**properties, "error_cb": ClientErrors()})

    def send(self, letters: Iterable[Letter]) -> None:
        """Write letters and wait until they are acknowledged; TryLater when they are not.

        A record that is too large for the topic leaves its headers, which say where the record stands.
        """
        too_large = self._send(letters, with_value=True)
        if too_large:
            log.warning("dead letters are too large; their headers alone are kept", letters=len(too_large))
            self._send(too_large, with_value=False)

    def close(self) -> None:
        """Let go of what was not acknowledged."""
        self._producer.purge()
        self._producer.flush(1)

    def _send(self, letters: Iterable[Letter], *, with_value: bool) -> list[Letter]:
        """Write the letters; returns those that are too large for the topic."""
        too_large: list[Letter] = []
        failures: list[KafkaError] = []
        for letter in letters:

            def report(error: KafkaError | None, _message: object, letter: Letter = letter) -> None:
                if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE and with_value:
                    too_large.append(letter)
                elif error is not None:
                    failures.append(error)

            self._queue(letter, report, with_value=with_value)
        self._flush(failures)
        return too_large

    def _queue(self, letter: Letter, report: Callable[[KafkaError | None, Any], None], *, with_value: bool) -> None:
        message, reason, detail = letter
        explained = headers.onward(message.headers()) + headers.dead_letter(
            reason=reason,
            detail=detail,
            stage=self._stage,
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
        )
        value = message.value() if with_value else None
        while True:
            try:
                self._producer.produce(self._topic, value, message.key(), headers=explained, on_delivery=report)  # type: ignore[arg-type]
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

"""Dead letters of a stage whose output is no Kafka transaction: sent at least once, by an idempotent producer.

`send` returns only when every letter is acknowledged, so that a caller may then forget the records they stand for.
"""

from collections.abc import Iterable
from typing import Any

import structlog
from confluent_kafka import KafkaError, Producer

from forebay.errors import TryLater
from forebay.kafka.settings import Properties
from forebay.messages import headers

log = structlog.get_logger()

_RESERVE_S = 5.0
"""How much longer than the delivery's own time-out to wait for its report."""


class DeadLetterProducer:
    """Writes the dead letters of one stage to one topic. `properties` are those of `settings.plain_producer`."""

    def __init__(self, properties: Properties, *, topic: str, stage: str) -> None:
        self._topic, self._stage = topic, stage
        self._patience_s = properties["message.timeout.ms"] / 1000 + _RESERVE_S
        self._producer = Producer({**properties, "error_cb": _log_client_error})

    def send(self, letters: Iterable[tuple[Any, str, str]]) -> None:
        """Write (message, reason, detail) triples and wait until they are acknowledged; TryLater when they are not.

        A record that is too large for the topic leaves its headers, which say where the record stands.
        """
        too_large: list[tuple[Any, str, str]] = []
        failures: list[KafkaError] = []
        for letter in letters:
            self._queue(letter, too_large, failures, with_value=True)
        self._flush(failures)
        for letter in list(too_large):
            self._queue(letter, [], failures, with_value=False)
        if too_large:
            log.warning("dead letters are too large; their headers alone are kept", letters=len(too_large))
            self._flush(failures)

    def close(self) -> None:
        """Let go of what was not acknowledged."""
        self._producer.purge()
        self._producer.flush(1)

    def _queue(
        self,
        letter: tuple[Any, str, str],
        too_large: list[tuple[Any, str, str]],
        failures: list[KafkaError],
        *,
        with_value: bool,
    ) -> None:
        message, reason, detail = letter

        def report(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                (failures if error.code() != KafkaError.MSG_SIZE_TOO_LARGE else refused).append(error)
                if refused:
                    too_large.append(letter)

        refused: list[KafkaError] = []
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
                self._producer.produce(
                    self._topic,
                    value,
                    message.key(),
                    headers=explained,  # type: ignore[arg-type]  # the stubs know no list of pairs
                    on_delivery=report,
                )
            except BufferError:
                self._producer.poll(0.05)
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


def _log_client_error(error: KafkaError) -> None:
    log.warning("kafka client", error=error.str(), code=error.name())

"""The one place that knows what a librdkafka error obliges its caller to do (transactional producer: KIP-588 classes)."""

import time

import structlog
from confluent_kafka import KafkaError, KafkaException

from forebay.errors import Fatal, ForebayError

log = structlog.get_logger()

ADD_THE_ACL = "let an administrator of Kafka add the ACL"
"""What cures a refused right."""

_SAY_AGAIN_S = 10.0


class ClientErrors:
    """A client's `error_cb`: logs what it reports about its connections, each kind once in ten seconds.

    While a broker is away a client reports every attempt of every connection.
    """

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, error: KafkaError) -> None:
        """Log the error, if its kind was not logged lately."""
        now = time.monotonic()
        if now - self._said.get(error.name(), -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
            self._said[error.name()] = now
            log.warning("kafka client", error=error.str(), code=error.name())


class TransactionAborted(ForebayError):  # noqa: N818
    """Abort the transaction, rewind the input to the committed offsets, and do the work again."""

    def __init__(self, message: str, *, by_record: bool = False) -> None:
        super().__init__(message)
        self.by_record = by_record
        """The broker refused a record of the batch: the same batch would be refused for ever."""


class Uncertain(ForebayError):  # noqa: N818
    """Nobody knows whether the broker did it: throw the producer away, start a new one, and read what was committed.

    librdkafka lacks KIP-890's guard: a late commit or abort could end a later transaction of the same producer epoch.
    A new producer raises the epoch, which narrows that gap.
    """


class Fenced(Fatal):
    """Another process has this transactional.id, or the transaction outlived its time-out: only a fresh process helps."""


_RECORD_REFUSED = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_MSG_SIZE,
)


def classify(error: KafkaError) -> ForebayError:
    """What the caller of a transactional operation must do about the error."""
    message = f"{error.name()}: {error.str()}"
    fenced = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)  # noqa: SLF001
    if error.code() in fenced:
        return Fenced(message)
    if error.code() == KafkaError.INVALID_TXN_STATE:  # of this producer's own epoch: it and the broker are out of step
        return Uncertain(message)
    if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
        return Fatal(message)
    if error.txn_requires_abort():
        return TransactionAborted(message, by_record=error.code() in _RECORD_REFUSED)
    return Uncertain(message)


def raised(exception: KafkaException) -> KafkaError:
    """The KafkaError inside a KafkaException."""
    error: KafkaError = exception.args[0]
    return error

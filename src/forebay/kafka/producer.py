"""A transactional producer whose every failure is one of three duties: abort, replace the producer, exit.

Blocking calls last as long as a transaction may, for by itself librdkafka would ask again for ever: whoever has waited longer
does not know what the broker did. An end of a transaction that is still on its way then could end the next one, so the
producer is thrown away; librdkafka's warning that a time-out leaves it out of step does not matter to what is thrown away.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from forebay.errors import ForebayError
from forebay.kafka import clients
from forebay.kafka.clients import Login
from forebay.kafka.errors import ADD_THE_ACL, ClientErrors, Fenced, TransactionAborted, Uncertain, classify, raised
from forebay.kafka.settings import Properties
from forebay.messages.headers import Headers

log = structlog.get_logger()

_PATIENCE_S = 5.0
_FLUSH_S = 0.1
_RESERVE_S = 1.0
_FORBIDDEN_S = 2.0
"""Somebody has to add the ACL: that takes longer."""

Message = dict[str, Any]
"""One record for `produce_batch`: `value`, `key` and optionally `partition`."""


def _ignore(_told: str) -> None:
    pass


class Rejected(ForebayError):  # noqa: N818
    """The client refused these records before sending them (too large, say); the transaction itself is sound."""

    def __init__(self, places: Sequence[int], error: KafkaError) -> None:
        super().__init__(f"{len(places)} records refused by the client, the first: {error.str()}")
        self.places = places
        """Where they stood in what was given, ascending."""


class TransactionalProducer:
    """One transactional.id; at most one open transaction.

    Raises TransactionAborted, Uncertain or Fenced; after Uncertain call `replace` before anything else.
    """

    def __init__(self, properties: Properties) -> None:
        self._properties = {**properties, "error_cb": ClientErrors()}
        self._longest_s = properties["transaction.timeout.ms"] / 1000
        self._producer: Producer | None = None
        self._reused: list[Message] = []
        self._login: Login | None = properties.get(clients.LOGIN)
        self._logged_in = 0
        """How often the login had changed when the client was made."""
        self.open = False
        """A transaction has begun and neither committed nor aborted."""

    @property
    def transactional_id(self) -> str:
        """The id under which the broker fences earlier producers."""
        return str(self._properties["transactional.id"])

    def initialize(self, go_on: Callable[[], bool], on_waiting: Callable[[str], None] = _ignore) -> bool:
        """Fence every earlier producer of this id and end what it left open.

        Waits for the brokers, and for the right to use the id, while `go_on`, which is asked every few seconds; False when
        it gave up. `on_waiting` is told for what.
        """
        said = False
        while go_on():
            if self._producer is None and self._login is not None:
                self._logged_in = self._login.changes
            self._producer = self._producer or clients.producer(self._properties)
            try:
                self._producer.init_transactions(_PATIENCE_S)
            except KafkaException as exception:
                error = raised(exception)
                if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                    self._producer = None  # this client never asks again
                    on_waiting(f"the user may not use the transactional id {self.transactional_id}: {ADD_THE_ACL}")
                    time.sleep(_FORBIDDEN_S)
                elif not error.retriable():
                    raise classify(error) from exception
                else:
                    on_waiting(f"the transaction coordinator does not answer: {error.str()}")
                if not said:
                    log.warning("waiting for the transaction coordinator", error=error.str())
                said = True
            else:
                return True
        return False

    def replace(self, go_on: Callable[[], bool], on_waiting: Callable[[str], None] = _ignore) -> bool:
        """Give up this producer, whatever state it is in, and fence it by a new one: see `initialize`."""
        self.open = False
        if self._producer is not None:
            self._producer.purge()
            self._producer = None
        return self.initialize(go_on, on_waiting)

    @property
    def is_outdated(self) -> bool:
        """Whether the login has changed since the client was made: then `replace` it between two transactions.

        A connection that authenticates anew as another user is closed by Kafka. In the middle of a transaction that can leave the
        offsets' call without an answer until its time is up (librdkafka's issues 5456 and 5511).
        """
        return self._login is not None and self._logged_in != self._login.changes

    def begin(self) -> None:
        """Begin a transaction."""
        self._call(self._client.begin_transaction)
        self.open = True

    def produce_columns(
        self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None], *, partition: int = -1
    ) -> None:
        """Queue records without headers, in order: see `produce_batch`.

        The client wants a dict for each and copies what is in it: filling the same dicts again takes half the time.
        """
        while len(self._reused) < len(keys):
            self._reused.append({"key": None, "value": None})
        messages = self._reused[: len(keys)]
        for message, key, value in zip(messages, keys, values, strict=True):
            message["key"] = key
            message["value"] = value
        self.produce_batch(topic, messages, partition=partition)

    def produce_batch(self, topic: str, messages: list[Message], *, partition: int = -1) -> None:
        """Queue records without headers, in order. A full queue waits for the brokers: that is the back-pressure.

        Raises Rejected, after queueing all the others, for records that the client refuses.
        """
        places: Sequence[int] = range(len(messages))
        batch = messages
        rejected: list[tuple[int, KafkaError]] = []
        while batch:
            if self._client.produce_batch(topic, batch, partition=partition) == len(batch):
                break
            errors = [message.pop("_error", None) for message in batch]
            waiting: list[int] = []
            for place, error in zip(places, errors, strict=True):
                if error is None:
                    if waiting:
                        raise TransactionAborted(
                            "the queue had no room for a record and then for a later one: order is lost"
                        )
                elif error.code() == KafkaError._QUEUE_FULL:  # noqa: SLF001
                    waiting.append(place)
                elif error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    rejected.append((place, error))
                else:
                    raise self._cause(error)
            places, batch = waiting, [messages[place] for place in waiting]
            if batch:
                self._client.poll(0.05)
        if rejected:
            raise Rejected(sorted(place for place, _ in rejected), rejected[0][1])

    def produce(
        self,
        topic: str,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        partition: int = -1,
        on_delivered: Callable[[int], None] | None = None,
    ) -> None:
        """Queue one record with headers. Raises Rejected like `produce_batch`.

        `on_delivered` is given the record's offset, at the latest when `commit` returns.
        """

        def report(error: KafkaError | None, message: Any) -> None:
            if error is None and on_delivered is not None:
                on_delivered(message.offset())

        while True:
            try:
                self._client.produce(
                    topic,
                    value,
                    key,
                    partition,
                    on_delivery=report if on_delivered else None,
                    headers=headers,  # type: ignore[arg-type]
                )
            except BufferError:
                self._client.poll(0.05)
            except KafkaException as exception:
                error = raised(exception)
                if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                    raise Rejected([0], error) from exception
                raise self._cause(error) from exception
            else:
                return

    def serve(self) -> None:
        """Let the client tell what it delivered, which also frees its memory."""
        self._client.poll(0)

    def send_offsets(
        self, topic: str, offsets: Mapping[int, int], group_metadata: object, *, metadata: str = ""
    ) -> None:
        """Make the input's next offsets, by partition, part of the transaction; `metadata` is kept with each."""
        positions = [TopicPartition(topic, partition, offset, metadata) for partition, offset in offsets.items()]
        client = self._client
        try:
            self._bounded(lambda: client.send_offsets_to_transaction(positions, group_metadata, self._longest_s))
        except KafkaException as exception:
            raise self._cause(raised(exception)) from exception

    def commit(self) -> None:
        """Commit: flushes, and fails if any record of the transaction was not delivered.

        The client's own flush would wait for the records of a failed transaction until they time out.
        """
        try:
            while self._client.flush(_FLUSH_S):
                failure = self._failure()
                if failure is not None:
                    raise failure
        except KafkaException as exception:  # a client that was fenced refuses even to flush
            raise classify(raised(exception)) from exception
        self._call(lambda: self._client.commit_transaction(self._longest_s))
        self.open = False

    def abort(self) -> None:
        """Abort; what was produced is purged. After Uncertain the caller replaces the producer."""
        if not self.open:
            return
        self._call(lambda: self._client.abort_transaction(self._longest_s))
        self.open = False

    def close(self) -> None:
        """Let go of the client; an open transaction is aborted first, if the brokers answer."""
        if self._producer is None:
            return
        try:
            self.abort()
        except ForebayError as error:
            log.warning("transaction left open; the broker will abort it", error=str(error))
        self._producer.purge()
        with contextlib.suppress(KafkaException):  # a client that was fenced refuses even this
            self._producer.flush(1)
        self._producer = None

    def _cause(self, error: KafkaError) -> ForebayError:
        """Why a record could not be queued. A transaction that has failed says only that its state is wrong."""
        vague = (KafkaError._STATE, KafkaError._FATAL)  # noqa: SLF001 - the public names of the codes
        failure = self._failure() if error.code() in vague else None
        return failure or classify(error)

    def _failure(self) -> ForebayError | None:
        """What the open transaction has failed with, None while it is sound.

        Beginning another one tells: it is refused with that error, or for being a second one, and changes nothing.
        """
        try:
            self._client.begin_transaction()
        except KafkaException as exception:
            error = raised(exception)
            return None if error.code() == KafkaError._STATE else classify(error)  # noqa: SLF001
        return Uncertain("a transaction was to be committed that had not begun")

    @property
    def _client(self) -> Producer:
        if self._producer is None:
            raise Uncertain("the producer was given up and not replaced")
        return self._producer

    def _bounded(self, operation: Callable[[], None]) -> None:
        """Do in a thread what may never return, and leave the thread behind if it does not.

        While its coordinator is away librdkafka forgets the time-out of the offsets' call (its issues 5456 and 5511).
        """
        result: Future[None] = Future()

        def run() -> None:
            try:
                operation()
            except BaseException as error:  # noqa: BLE001 - raised again below
                result.set_exception(error)
            else:
                result.set_result(None)

        threading.Thread(target=run, name="bounded", daemon=True).start()
        try:
            result.result(self._longest_s + _RESERVE_S)
        except TimeoutError:
            raise Uncertain(f"the client did not answer within {self._longest_s:.0f} s") from None

    @staticmethod
    def _call(operation: Callable[[], None]) -> None:
        try:
            operation()
        except KafkaException as exception:
            raise classify(raised(exception)) from exception


__all__ = ["Fenced", "Message", "Rejected", "TransactionAborted", "TransactionalProducer", "Uncertain"]

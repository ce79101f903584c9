"""The processing loop: consume, process, produce, commit, all exactly once.

One transaction per interval holds the output records, the dead letters, the changelog of the state and the offsets of the
input. After its commit the state is written to the local stores. What can go wrong has three answers: abort and rewind, throw
the producer away and look at what was committed, or end the process. Measured facts that shape it:

- an aborted transaction does not rewind the consumer: `GroupReader.rewind` does;
- the broker accepts offsets of a partition that has moved on: what is not owned is never committed, because a revocation
  commits first and a loss aborts first, inside the rebalance callbacks;
- committed offsets are read until they are stable before the end of a changelog is asked for, or a commit that lands in
  between would be missed.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from forebay.errors import TryLater
from forebay.kafka import settings as kafka_settings
from forebay.kafka.errors import TransactionAborted, Uncertain
from forebay.kafka.group import GroupReader, Run
from forebay.kafka.producer import Rejected, TransactionalProducer
from forebay.messages import headers
from forebay.pipeline import names, properties
from forebay.pipeline.spec import OnOffsetLost, Processor
from forebay.runtime.pacing import TokenBucket
from forebay.runtime.restoring import Restorer
from forebay.runtime.service import Replica
from forebay.runtime.stage import DeadLetter, Outcome, PartitionStage
from forebay.runtime.state import KeyedState, Mark, Origin, Store, StoreDamaged

log = structlog.get_logger()

RETRY_S = 0.5
_COLLECT_EVERY_S = 5.0


@dataclass(slots=True)
class _Transaction:
    """What the open transaction stands for, besides what the producer has queued."""

    offsets: dict[int, int] = field(default_factory=dict)
    records_in: int = 0
    records_out: int = 0
    dropped: int = 0
    dead_letters: dict[str, int] = field(default_factory=dict)
    ingest_times_ms: list[int] = field(default_factory=list)
    processing_s: float = 0.0


class ProcessingLoop:
    """Drives a processor's replica. `open_partition` opens stage and stores of an input partition."""

    def __init__(self, replica: Replica[Processor], open_partition: Callable[[int], PartitionStage]) -> None:
        self._replica = replica
        self._stage = replica.stage
        self._open_partition = open_partition
        self._changelogs = {
            transform.name: names.changelog_topic(replica.pipeline, replica.stage, transform)
            for transform in replica.stage.transforms
        }
        self._dead_letter_topic = names.dead_letter_topic(replica.stage)
        self._owned: dict[int, PartitionStage] = {}
        self._origins: dict[str, Origin] = {}
        self._restorer = Restorer(replica.connection, replica.metrics)
        self._committed: dict[int, int] = {}
        self._transaction = _Transaction()
        self._poison: dict[tuple[int, int], int] = {}
        self._limit = replica.stage.batch.max_records
        self._interval_s = replica.stage.batch.max_wait_ms / 1000
        self._due = 0.0
        rate = replica.stage.rate_limit
        self._bucket = None if rate is None else TokenBucket(rate, time.monotonic())
        self._producer = TransactionalProducer(
            kafka_settings.transactional_producer(
                replica.connection,
                transactional_id=names.transactional_id(replica.pipeline, replica.stage, replica.ordinal),
                delivery=replica.stage.delivery,
                overrides=properties.for_producer(replica.stage.kafka_properties),
                max_message_bytes=_max_message_bytes(replica),
            )
        )

    def run(self) -> None:
        """Process until asked to stop; then finish the batch, commit and leave the group."""
        if not self._producer.initialize(self._replica.go_on):
            return
        self._reader = GroupReader(
            kafka_settings.group_consumer(
                self._replica.connection,
                group_id=names.group_id(self._replica.pipeline, self._stage),
                stop_on_lost_offset=self._stage.on_offset_lost is OnOffsetLost.STOP,
                overrides=properties.for_consumer(self._stage.kafka_properties),
            ),
            self._stage.from_,
            start_from=self._stage.start_from,
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            on_lost=self._lost,
        )
        collected = time.monotonic()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            while not self._replica.stopping:
                self._guarded(self._round)
                if time.monotonic() > collected + _COLLECT_EVERY_S:
                    gc.collect(0)
                    collected = time.monotonic()
            self._guarded(self._commit)
        finally:
            gc.enable()
            self._reader.close()
            self._producer.close()
            self._restorer.close()

    # -- one round ----------------------------------------------------------------------------------------------

    def _round(self) -> None:
        self._replica.health.beat()
        self._restore_some()
        now = time.monotonic()
        wait = 0.01 if self._restorer.partitions else min(self._interval_s, max(0.0, self._due - now))
        for run in self._reader.read(self._allowed(), wait):
            self._process(run)
        self._producer.serve()
        if time.monotonic() >= self._due or self._limit < self._stage.batch.max_records:
            self._commit()

    def _allowed(self) -> int:
        """How many records to read: the batch, less what the rate limit leaves of it; waits for at least one."""
        if self._bucket is None:
            return self._limit
        while not (tokens := self._bucket.available(time.monotonic())):
            if self._replica.stopping.wait(min(1.0, self._bucket.wait_s())):
                return 1
        return min(tokens, self._limit)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except TransactionAborted as error:
            self._aborted(error)
        except Uncertain as error:
            self._start_over(error)
        except StoreDamaged as error:
            self._damaged(error)
        except TryLater as error:
            self._replica.metrics.error(error)
            log.warning("trying again", reason=str(error))
            self._start_over(error)

    def _process(self, run: Run) -> None:
        stage = self._owned.get(run.partition)
        if stage is None or run.partition in self._restorer.partitions:
            return
        begun = time.perf_counter()
        if not self._producer.open:
            self._producer.begin()
        transaction = self._transaction
        if self._poison:
            run = self._without_poison(run)
        if run.messages:
            outcome = stage.process(run)
            self._produce(outcome)
            transaction.records_in += len(run.messages)
            if self._bucket is not None:
                self._bucket.spend(len(run.messages))
            transaction.dropped += outcome.dropped
        transaction.offsets[run.partition] = run.next_offset
        transaction.processing_s += time.perf_counter() - begun

    def _produce(self, outcome: Outcome) -> None:
        """Queue the outcome's records in order; the few with headers go one by one between the batches."""
        start = 0
        for index in outcome.with_headers:
            self._queue(outcome, start, index)
            source = outcome.sources[index]
            ingest_time = headers.ingest_time_ms(source.headers())
            if ingest_time is not None:
                self._transaction.ingest_times_ms.append(ingest_time)
            record = outcome.records[index]
            try:
                self._producer.produce(
                    self._stage.to, key=record["key"], value=record["value"], headers=headers.onward(source.headers())
                )
                self._transaction.records_out += 1
            except Rejected as error:
                self._dead_letter(DeadLetter(source, "too-large", str(error)))
            start = index + 1
        self._queue(outcome, start, len(outcome.records))
        for letter in outcome.dead_letters:
            self._dead_letter(letter)

    def _queue(self, outcome: Outcome, start: int, end: int) -> None:
        records = outcome.records if start == 0 and end == len(outcome.records) else outcome.records[start:end]
        if not records:
            return
        self._transaction.records_out += len(records)
        try:
            self._producer.produce_batch(self._stage.to, records)
        except Rejected as error:
            self._transaction.records_out -= len(error.rejected)
            refused = {id(message) for message, _ in error.rejected}
            for index in range(start, end):
                if id(outcome.records[index]) in refused:
                    self._dead_letter(DeadLetter(outcome.sources[index], "too-large", str(error)))

    def _dead_letter(self, letter: DeadLetter, *, with_value: bool = True) -> None:
        message = letter.source
        self._transaction.dead_letters[letter.reason] = self._transaction.dead_letters.get(letter.reason, 0) + 1
        explained = headers.onward(message.headers()) + headers.dead_letter(
            reason=letter.reason,
            detail=letter.detail,
            stage=self._stage.name,
            topic=message.topic(),
            partition=message.partition(),
            offset=message.offset(),
        )
        try:
            self._producer.produce(
                self._dead_letter_topic,
                key=message.key(),
                value=message.value() if with_value else None,
                headers=explained,
            )
        except Rejected:
            log.exception("dead letter is too large; its headers alone are kept", offset=message.offset())
            self._producer.produce(self._dead_letter_topic, key=message.key(), value=None, headers=explained)

    # -- commit, abort, start over ------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Commit what was processed, and the ends of partitions that have been reached."""
        self._due = time.monotonic() + self._interval_s
        transaction = self._transaction
        for partition, end in self._reader.take_ends().items():
            if end > transaction.offsets.get(partition, self._committed.get(partition, -1)):
                transaction.offsets[partition] = end
        if not transaction.offsets:
            return
        if not self._producer.open:
            self._producer.begin()
        begun = time.perf_counter()
        written = [
            (state, self._changelogs[name], *self._log_changes(name, partition, state))
            for partition in transaction.offsets
            for name, state in self._owned[partition].states.items()
            if state.changed
        ]
        self._producer.send_offsets(self._stage.from_, transaction.offsets, self._reader.group_metadata())
        self._producer.commit()
        now_ms = int(time.time() * 1000)
        for state, topic, changes, delivered in written:
            state.committed(changes, Mark(self._origins[topic], delivered[0] + 1, now_ms))
        self._committed.update(transaction.offsets)
        self._transaction = _Transaction()
        self._limit = min(self._limit * 2, self._stage.batch.max_records)
        self._count(transaction, time.perf_counter() - begun)

    def _log_changes(
        self, name: str, partition: int, state: KeyedState[Any]
    ) -> tuple[Mapping[bytes, bytes | None], list[int]]:
        """Queue each changed key's last value; the list holds the last one's offset when the commit has returned."""
        changes = state.changes()
        delivered: list[int] = []
        *others, (key, value) = changes.items()
        topic = self._changelogs[name]
        self._producer.produce_batch(
            topic, [{"key": key, "value": value, "partition": partition} for key, value in others]
        )
        self._producer.produce(topic, key=key, value=value, partition=partition, on_delivered=delivered.append)
        return changes, delivered

    def _count(self, transaction: _Transaction, commit_s: float) -> None:
        metrics = self._replica.metrics
        metrics.committed()
        metrics.commit_seconds.observe(commit_s)
        if not transaction.records_in:
            return
        metrics.records_in.inc(transaction.records_in)
        metrics.records_out.inc(transaction.records_out)
        metrics.records_dropped.inc(transaction.dropped)
        metrics.batch_records.observe(transaction.records_in)
        metrics.processing_seconds.observe(transaction.processing_s)
        for reason, count in transaction.dead_letters.items():
            metrics.dead_letters(reason, count)
        now_ms = time.time() * 1000
        for ingest_time_ms in transaction.ingest_times_ms:
            metrics.latency_seconds.observe(max(0.0, now_ms - ingest_time_ms) / 1000)

    def _aborted(self, error: TransactionAborted) -> None:
        log.warning("transaction aborted", reason=str(error), records=self._transaction.records_in)
        self._replica.metrics.error(error)
        if error.by_record:
            self._suspect()
        try:
            self._producer.abort()
        except (TransactionAborted, Uncertain) as worse:
            self._start_over(worse)
            return
        self._replica.metrics.aborted()
        self._rewind()
        if not error.by_record:
            self._replica.stopping.wait(RETRY_S)

    def _start_over(self, error: Exception) -> None:
        """Nobody knows what was committed: a new producer, state from the changelog, offsets from the group."""
        log.warning("starting over with a new producer", reason=str(error))
        self._replica.metrics.error(error)
        self._replica.stopping.wait(RETRY_S)
        if not self._producer.replace(self._replica.go_on):
            return
        self._replica.metrics.aborted()
        self._rewind(restore=list(self._owned))

    def _damaged(self, error: StoreDamaged) -> None:
        """Local state cannot be read: abort, wipe it, restore it, and do the work again."""
        log.error("local state is damaged; it is wiped and restored", reason=str(error))
        self._replica.metrics.error(error)
        self._producer.abort()
        self._replica.metrics.aborted()
        error.store.wipe()
        self._rewind(
            restore=[
                partition
                for partition, stage in self._owned.items()
                if any(state.store is error.store for state in stage.states.values())
            ]
        )

    def _rewind(self, restore: Sequence[int] = ()) -> None:
        """Forget the transaction and continue every owned partition at its committed offset, some after a restore."""
        for stage in self._owned.values():
            for state in stage.states.values():
                state.aborted()
        self._transaction = _Transaction()
        self._reader.take_ends()
        self._reader.rewind(self._reader.committed(self._owned))
        self._restore(restore)
        self._reader.pause(self._restorer.partitions)

    # -- records that the broker refuses ---------------------------------------------------------------------------

    def _suspect(self) -> None:
        """Halve the transaction until the record that the broker refuses stands alone; that one is a dead letter."""
        transaction = self._transaction
        if transaction.records_in > 1:
            self._limit = max(1, min(self._limit, transaction.records_in) // 2)
            return
        for partition, next_offset in transaction.offsets.items():
            place = (partition, next_offset - 1)
            self._poison[place] = self._poison.get(place, 0) + 1

    def _without_poison(self, run: Run) -> Run:
        good = []
        for message in run.messages:
            place = (run.partition, message.offset())
            if place in self._poison:
                letter = DeadLetter(message, "rejected-by-kafka", "the broker refused what this record became")
                self._dead_letter(letter, with_value=self._poison[place] == 1)
                self._transaction.records_in += 1
            else:
                good.append(message)
        return run._replace(messages=good)

    # -- assignment and restore ------------------------------------------------------------------------------------

    def _assigned(self, partitions: list[int]) -> None:
        for partition in partitions:
            self._owned[partition] = self._open_partition(partition)
        self._restore(partitions)
        self._reader.pause(self._restorer.partitions)
        self._replica.metrics.partitions.set(len(self._owned))
        self._replica.health.ready()
        log.info("partitions assigned", partitions=sorted(partitions), owned=len(self._owned))

    def _restore(self, partitions: Sequence[int]) -> None:
        stores: dict[int, dict[str, Store]] = {}
        for partition in partitions:
            states = self._owned[partition].states
            for state in states.values():
                state.forget()
            stores[partition] = {self._changelogs[name]: state.store for name, state in states.items()}
        self._origins |= self._restorer.begin(stores)

    def _restore_some(self) -> None:
        """One slice of the changelogs that are being read; the loop polls in between."""
        if self._restorer.partitions:
            done = self._restorer.step()
            if done:
                self._reader.resume(done)

    def _revoked(self, partitions: list[int]) -> None:
        try:
            self._commit()
        finally:
            self._let_go(partitions)
            log.info("partitions revoked", partitions=sorted(partitions), owned=len(self._owned))

    def _lost(self, partitions: list[int]) -> None:
        """The group has given them away already: nothing of them may be committed."""
        self._let_go(partitions)
        log.warning("partitions lost", partitions=sorted(partitions))
        raise TransactionAborted("partitions were lost to the group")

    def _let_go(self, partitions: list[int]) -> None:
        for partition in partitions:
            stage = self._owned.pop(partition, None)
            self._committed.pop(partition, None)
            self._transaction.offsets.pop(partition, None)
            self._restorer.drop(partition)
            if stage is not None:
                for state in stage.states.values():
                    state.store.close()
        self._replica.metrics.partitions.set(len(self._owned))


def _max_message_bytes(replica: Replica[Processor]) -> int:
    """The output topic's own limit, so that what is larger is refused here, where it costs one record its place."""
    topic = replica.pipeline.spec.topic(replica.stage.to)
    return int(topic.config.get("max.message.bytes", kafka_settings.MAX_MESSAGE_BYTES))

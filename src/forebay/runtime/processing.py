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
from functools import partial

import structlog

from forebay.errors import Fatal, Forbidden, TryLater
from forebay.kafka import columns, dead_letters
from forebay.kafka import settings as kafka_settings
from forebay.kafka.errors import TransactionAborted, Uncertain
from forebay.kafka.group import Commit, GroupReader, Run
from forebay.kafka.producer import Rejected, TransactionalProducer
from forebay.messages import headers
from forebay.pipeline import names, properties
from forebay.pipeline.spec import Processor
from forebay.planning.topics import TopicState
from forebay.runtime import lineage
from forebay.runtime.lineage import Lineage
from forebay.runtime.pacing import TokenBucket
from forebay.runtime.restoring import Restorer
from forebay.runtime.service import Replica
from forebay.runtime.stage import DeadLetter, Outcome, PartitionStage
from forebay.runtime.state import Mark, Origin, Position, State, Store, StoreDamaged
from forebay.runtime.watching import TopicsWatch, missing

log = structlog.get_logger()

RETRY_S = 0.5
_RETRY_AT_LEAST_EVERY_S = 8.0
_COLLECT_EVERY_S = 5.0
_LOOK_EVERY_S = 0.2
"""A read that is not full lasts so long: a new assignment, whose state is to be restored, and a stop do not end it."""
AT_ONCE = 1_000
"""Records read at a time: few enough to be in the processor's cache still when they are decoded and encoded. Measured:
a seventh less CPU time per record than with 10 000; 400 gain nothing more."""
_NARROWING = 8
"""How much smaller the batches become that a refused record is searched in: an abort costs as much as many commits."""


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
    cut_short: int = 0
    """Dead letters that were too large to be kept whole."""


@dataclass(frozen=True, slots=True)
class _Written:
    """State changes that the open transaction holds."""

    state: State
    topic: str
    changes: Mapping[bytes, bytes | None]
    position: Position
    delivered: list[int] = field(default_factory=list)
    """The offset of the last change, once the commit has returned."""


class ProcessingLoop:
    """Drives a processor's replica. `open_partition` opens stage and stores of an input partition."""

    def __init__(self, replica: Replica[Processor], open_partition: Callable[[int], PartitionStage]) -> None:
        self._replica = replica
        self._stage = replica.stage
        self._open_partition = open_partition
        self._changelogs = {
            transform.name: names.changelog_topic(replica.pipeline, replica.stage, transform)
            for transform in replica.stage.transforms
            if transform.is_stateful
        }
        self._dead_letter_topic = names.dead_letter_topic(replica.stage)
        self._owned: dict[int, PartitionStage] = {}
        self._origins: dict[str, Origin] = {}
        group_id = names.group_id(replica.pipeline, replica.stage)
        self._restorer = Restorer(replica.connection, replica.metrics, group_id=group_id)
        self._lineage = Lineage("", {})
        self._metadata = ""
        self._commits: dict[int, Commit | None] = {}
        self._committed: dict[int, int] = {}
        self._transaction = _Transaction()
        self._waited_for_topics = False
        self._forbidden = False
        """The user may not describe the topics, and nothing can be committed."""
        self._missed: set[int] = set()
        """Partitions of which something came, in spite of the pause, before they were restored."""
        self._poison: dict[tuple[int, int], int] = {}
        self._suspects: dict[int, int] = {}
        """By partition, the offset before which the record stands that the broker refused."""
        self._limit = replica.stage.batch.max_records
        self._interval_s = kafka_settings.commit_interval_s(replica.stage.batch)
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
        if not self._producer.initialize(self._replica.go_on, self._replica.health.still_not_ready):
            return
        self._watch = TopicsWatch(
            self._replica.connection,
            (self._stage.from_, self._stage.to, self._dead_letter_topic, *self._changelogs.values()),
        )
        self._seen = self._watch.seen
        self._reader = GroupReader(
            kafka_settings.group_consumer(
                self._replica.connection,
                group_id=names.group_id(self._replica.pipeline, self._stage),
                overrides=properties.for_consumer(self._stage.kafka_properties),
            ),
            self._stage.from_,
            start_from=self._stage.start_from,
            on_offset_lost=self._stage.on_offset_lost,
            starts=self._starts,
            on_assigned=self._assigned,
            on_revoked=self._revoked,
            on_lost=self._lost,
            on_refused=self._replica.health.not_ready,
            on_records_lost=self._replica.metrics.records_lost.inc,
            check_topic=lambda: self._present(self._watch.look()),
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
        except BaseException:
            self._forget_transaction()  # leaving the group revokes, and that would commit what is half done
            raise
        finally:
            gc.enable()
            self._watch.close()
            self._reader.close()
            self._producer.close()
            self._restorer.close()

    # -- one round ----------------------------------------------------------------------------------------------

    def _round(self) -> None:
        self._replica.health.beat()
        self._look_at_topics()
        if self._waited_for_topics and self._replica.stopping:  # what came while it waited was dropped
            return
        self._restore_some()
        now = time.monotonic()
        wait = 0.01 if self._restorer.partitions else min(_LOOK_EVERY_S, max(0.0, self._due - now))
        for run in self._reader.read(self._allowed(), wait):
            self._process(run)
        self._producer.serve()
        if time.monotonic() >= self._due or self._suspects or self._limit < self._stage.batch.max_records:
            self._commit()

    def _allowed(self) -> int:
        """How many records to read, within the rate limit; waits for at least one."""
        most = min(self._limit, AT_ONCE)
        if self._bucket is None:
            return most
        while not (tokens := self._bucket.available(time.monotonic())):
            if self._replica.stopping.wait(min(1.0, self._bucket.wait_s())):
                return 1
        return min(tokens, most)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do it. What goes wrong and may pass is answered, and so is what goes wrong in the answer, until one succeeds.

        Nothing is read before that, for an answer that failed may not have rewound. What answers a failed answer restores all
        state, for the first one may have had to. Whoever is to stop answers once.
        """
        answers = 0
        while True:
            try:
                action()
            except TransactionAborted as error:
                answer = partial(self._start_over if answers else self._aborted, error)
            except StoreDamaged as error:
                answer = partial(self._damaged, error)
            except (Uncertain, TryLater) as error:
                answer = partial(self._start_over, error)
            else:
                return
            if answers and self._replica.stopping.wait(min(RETRY_S * 2**answers, _RETRY_AT_LEAST_EVERY_S)):
                return
            action = answer
            answers += 1

    def _process(self, run: Run) -> None:
        stage = self._owned.get(run.partition)
        if stage is None:
            return
        if run.partition in self._restorer.partitions:
            self._missed.add(run.partition)
            return
        begun = time.perf_counter()
        self._begin()
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

    def _begin(self) -> None:
        """Open a transaction, unless one is.

        A new login's client may fence a successor, but takes nothing from it: offsets of a former member are refused.
        """
        if not self._producer.open:
            if self._producer.is_outdated:
                self._producer.replace(self._replica.go_on)
            self._producer.begin()

    def _produce(self, outcome: Outcome) -> None:
        """Queue the outcome's records in order; the few with headers go one by one between the batches."""
        start = 0
        for index in outcome.with_headers:
            self._queue(outcome, start, index)
            source = outcome.sources[index]
            ingest_time = headers.ingest_time_ms(source.headers())
            if ingest_time is not None:
                self._transaction.ingest_times_ms.append(ingest_time)
            try:
                self._producer.produce(
                    self._stage.to,
                    key=outcome.keys[index],
                    value=outcome.values[index],
                    headers=headers.onward(source.headers()),
                )
                self._transaction.records_out += 1
            except Rejected as error:
                self._dead_letter(DeadLetter(source, "too-large", str(error)))
            start = index + 1
        self._queue(outcome, start, len(outcome.values))
        for letter in outcome.dead_letters:
            self._dead_letter(letter)

    def _queue(self, outcome: Outcome, start: int, end: int) -> None:
        if start == end:
            return
        whole = start == 0 and end == len(outcome.values)
        keys, values = (outcome.keys, outcome.values) if whole else (outcome.keys[start:end], outcome.values[start:end])
        self._transaction.records_out += end - start
        try:
            self._producer.produce_columns(self._stage.to, keys, values)
        except Rejected as error:
            self._transaction.records_out -= len(error.places)
            for place in error.places:
                self._dead_letter(DeadLetter(outcome.sources[start + place], "too-large", str(error)))

    def _dead_letter(self, letter: DeadLetter, *, refused: int = 0) -> None:
        """Queue a dead letter, in the fullest form that the client takes; the broker has refused so many of them before."""
        self._transaction.dead_letters[letter.reason] = self._transaction.dead_letters.get(letter.reason, 0) + 1
        forms = dead_letters.forms(letter.source, reason=letter.reason, detail=letter.detail, stage=self._stage.name)
        for place, form in enumerate(forms[refused:], refused):
            try:
                self._producer.produce(self._dead_letter_topic, key=form.key, value=form.value, headers=form.headers)
            except Rejected:
                continue
            self._transaction.cut_short += place > 0
            return
        raise Fatal(
            f"topic {self._dead_letter_topic} takes not even the reason of a dead letter: raise max.message.bytes"
        )

    # -- commit, abort, start over ------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Commit what was processed, and the ends of partitions that have been reached."""
        self._due = time.monotonic() + self._interval_s
        transaction = self._transaction
        for partition, end in self._reader.take_ends().items():
            if partition in self._restorer.partitions or partition in self._missed:
                self._missed.add(partition)
                continue
            if end > transaction.offsets.get(partition, self._committed.get(partition, -1)):
                transaction.offsets[partition] = end
        if not transaction.offsets:
            return
        self._begin()
        begun = time.perf_counter()
        topics = self._watch.looking()
        written = [
            self._log_changes(name, partition, state)
            for partition in transaction.offsets
            for name, state in self._owned[partition].states.items()
            if state.has_changes
        ]
        self._confirm(topics)
        self._producer.send_offsets(
            self._stage.from_, transaction.offsets, self._reader.group_metadata(), metadata=self._metadata
        )
        self._producer.commit()
        self._store(written)
        self._committed.update(transaction.offsets)
        self._transaction = _Transaction()
        self._widen(transaction)
        commit_s = time.perf_counter() - begun
        self._due = max(self._due, time.monotonic() + min(commit_s, self._interval_s))  # slow commits get fuller
        self._count(transaction, commit_s)

    def _confirm(self, topics: Callable[[], Mapping[str, TopicState]]) -> None:
        """See that what was read is of the topics that the committed offsets belong to: the client reads by name.

        `topics` tells what they have been since the last read.
        """
        try:
            found = topics()
        except Forbidden as error:
            self._forbidden = True
            self._replica.health.not_ready(str(error))
            raise TransactionAborted(str(error)) from error
        except TryLater as error:  # one is gone, or nobody can tell
            raise TransactionAborted(str(error)) from error
        if self._forbidden:
            self._forbidden = False
            self._replica.health.ready()
        self._present(found)

    def _log_changes(self, name: str, partition: int, state: State) -> _Written:
        """Queue each changed key's last value; the last one says where in the input the state stands."""
        position = Position(self._lineage.input_id, self._transaction.offsets[partition])
        written = _Written(state, self._changelogs[name], state.changes(), position)
        *others, (key, value) = written.changes.items()
        try:
            self._producer.produce_columns(
                written.topic, [key for key, _ in others], [value for _, value in others], partition=partition
            )
            self._producer.produce(
                written.topic,
                key=key,
                value=value,
                headers=[(headers.STATE_POSITION, written.position.encode())],
                partition=partition,
                on_delivered=written.delivered.append,
            )
        except Rejected as error:  # the record that made the state so large is found like any that the broker refuses
            raise TransactionAborted(f"state is too large for its changelog: {error}", by_record=True) from error
        return written

    def _store(self, written: Sequence[_Written]) -> None:
        """Take what was committed into the local stores. When one fails the others are behind too: restore them all."""
        now_ms = int(time.time() * 1000)
        try:
            for each in written:
                mark = Mark(self._origins[each.topic], each.delivered[0] + 1, now_ms, each.position)
                each.state.committed(each.changes, mark)
        except StoreDamaged as error:
            log.error("local state is damaged; it is wiped and restored", reason=str(error))  # noqa: TRY400
            error.store.wipe()
            raise Uncertain(f"a local store did not take what was committed: {error}") from error

    def _count(self, transaction: _Transaction, commit_s: float) -> None:
        metrics = self._replica.metrics
        metrics.committed()
        metrics.commit_seconds.observe(commit_s)
        if transaction.cut_short:
            log.warning("dead letters were too large to be kept whole", records=transaction.cut_short)
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
        self._forget_transaction()
        self._producer.abort()
        self._replica.metrics.aborted()
        self._rewind()
        if not error.by_record:
            self._replica.stopping.wait(RETRY_S)

    def _start_over(self, error: Exception) -> None:
        """Nobody knows what was committed: a new producer, state from the changelog, offsets from the group."""
        log.warning("starting over with a new producer", reason=str(error))
        self._replica.metrics.error(error)
        self._forget_transaction()
        self._replica.stopping.wait(RETRY_S)
        if not self._producer.replace(self._replica.go_on):
            return
        self._replica.metrics.aborted()
        self._rewind(restore=list(self._owned))

    def _damaged(self, error: StoreDamaged) -> None:
        """Local state cannot be read: wipe it, abort, restore all, and do the work again.

        All: what else was being done, perhaps the restore of others, is not known here.
        """
        log.error("local state is damaged; it is wiped and restored", reason=str(error))
        self._replica.metrics.error(error)
        self._forget_transaction()
        error.store.wipe()
        self._producer.abort()
        self._replica.metrics.aborted()
        self._rewind(restore=list(self._owned))

    def _rewind(self, restore: Sequence[int] = ()) -> None:
        """Continue every owned partition at its committed offset, some after a restore; the transaction is forgotten."""
        self._commits = self._reader.commits(self._owned)
        self._reader.rewind({partition: self._resume_at(partition) for partition in self._owned})
        self._missed.clear()
        self._restore(restore)
        unsuspected = self._reader.owned.difference(self._suspects) if self._suspects else set()
        waiting = self._restorer.partitions | unsuspected
        self._reader.pause(waiting)
        self._reader.resume(self._reader.owned - waiting)  # a pause outlasts being assigned again

    def _forget_transaction(self) -> None:
        """Nothing of it is committed any more, not by a revocation either, nor an end that was seen behind it."""
        self._reader.take_ends()
        for stage in self._owned.values():
            for state in stage.states.values():
                state.aborted()
        self._transaction = _Transaction()

    # -- records that the broker refuses ---------------------------------------------------------------------------

    def _suspect(self) -> None:
        """Make transactions smaller until the record that the broker refuses stands alone; that one is a dead letter."""
        transaction = self._transaction
        if transaction.records_in > 1:
            self._limit = max(1, min(self._limit, transaction.records_in) // _NARROWING)
            self._suspects = dict(transaction.offsets)
            return
        for partition, next_offset in transaction.offsets.items():
            place = (partition, next_offset - 1)
            self._poison[place] = self._poison.get(place, 0) + 1

    def _widen(self, done: _Transaction) -> None:
        """Make transactions larger again once the records are done that a refused one was searched among."""
        if self._suspects:
            for partition, offset in done.offsets.items():
                if offset >= self._suspects.get(partition, offset + 1):
                    self._clear(partition)
        if self._poison:
            self._poison = {
                place: count for place, count in self._poison.items() if place[1] >= self._committed.get(place[0], 0)
            }
        if not self._suspects:
            self._limit = min(self._limit * _NARROWING, self._stage.batch.max_records)

    def _clear(self, partition: int) -> None:
        """No refused record is searched in the partition any more; after the last one the others are read again."""
        if self._suspects.pop(partition, None) is not None and not self._suspects:
            self._reader.resume(self._reader.owned - self._restorer.partitions)

    def _without_poison(self, run: Run) -> Run:
        good = []
        for message in run.messages:
            place = (run.partition, message.offset())
            if place in self._poison:
                source = columns.readable(message)
                letter = DeadLetter(source, "rejected-by-kafka", "the broker refused what this record became")
                self._dead_letter(letter, refused=self._poison[place] - 1)
                self._transaction.records_in += 1
            else:
                good.append(message)
        return run._replace(messages=good)

    # -- assignment and restore ------------------------------------------------------------------------------------

    def _starts(self, partitions: list[int]) -> dict[int, int | None]:
        """Where to begin newly assigned partitions, as far as that is known before their state is restored."""
        self._commits |= self._reader.commits(partitions)
        self._lineage = self._present(self._watch.look())
        self._metadata = self._lineage.encode()
        for commit in self._commits.values():
            former = lineage.decode(commit.metadata) if commit else None
            if former is not None:  # before a local store, perhaps the last trace of the state, is wiped
                lineage.check_changelogs(former, self._lineage)
        return {partition: self._resume_at(partition) for partition in partitions if partition not in self._owned}

    def _resume_at(self, partition: int) -> int | None:
        """Where the partition goes on, by its commit and by its state (see `lineage`)."""
        states = self._owned[partition].states if partition in self._owned else {}
        marks = [state.store.mark for state in states.values()]
        return lineage.resume_at(
            f"{self._stage.from_}/{partition}",
            self._commits.get(partition),
            [mark.position for mark in marks if mark is not None and mark.position is not None],
            self._lineage,
            self._stage.on_offset_lost,
        )

    def _look_at_topics(self) -> None:
        """React to topics that were deleted, made again, or have grown."""
        if self._watch.seen is self._seen:
            return
        self._seen = self._wait_for_topics()
        if self._replica.stopping:
            return
        if not self._lineage.input_id:  # nothing was ever assigned
            self._waited_for_topics = False
            return
        self._present({name: state for name, state in self._seen.items() if state is not None})
        if self._waited_for_topics:
            self._forget_transaction()
            self._producer.abort()
            self._rewind(restore=list(self._owned))
            self._replica.health.ready()
            self._waited_for_topics = False

    def _present(self, found: Mapping[str, TopicState]) -> Lineage:
        """The lineage of the topics as they were found. Raises when it is not that of what is being processed."""
        present = lineage.observed(found[self._stage.from_], [found[each] for each in self._changelogs.values()])
        if self._lineage.input_id:
            lineage.check_changelogs(self._lineage, present)
            if not lineage.check_input(self._stage.from_, self._lineage.input_id, present, self._stage.on_offset_lost):
                raise Fatal(f"topic {self._stage.from_} was deleted and made again: a fresh process begins it anew")
        return present

    def _wait_for_topics(self) -> Mapping[str, TopicState | None]:
        """Stay in the group and do nothing, not ready, until every topic exists; none is created. What was seen at last."""
        said = None
        while (absent := missing(seen := self._watch.seen)) is not None and not self._replica.stopping:
            if said is None:
                self._waited_for_topics = True  # also when the wait ends with an error
                self._forget_transaction()
                self._producer.replace(self._replica.go_on)
            if absent != said:
                said = absent
                log.warning("waiting", reason=absent)
            self._replica.health.not_ready(absent)
            self._replica.health.beat()
            self._reader.pause(self._reader.owned)
            self._reader.read(1, 0.2)
            self._reader.take_ends()
        return seen

    def _assigned(self, partitions: list[int]) -> None:
        for partition in partitions:
            self._owned[partition] = self._open_partition(partition)
        self._replica.metrics.partitions.set(len(self._owned))
        self._replica.health.ready()
        log.info("partitions assigned", partitions=sorted(partitions), owned=len(self._owned))
        self._restore(partitions)
        self._reader.pause(self._restorer.partitions)
        # Some may have gone and come back paused; for the others see `GroupReader.pause`.
        self._reader.resume(self._owned.keys() - self._restorer.partitions)

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
            again: dict[int, int | None] = {}
            for partition in done:
                offset, commit = self._resume_at(partition), self._commits.get(partition)
                if offset is not None and (commit is None or commit.offset != offset):
                    log.warning("going on where the state stands", partition=partition, offset=offset)
                    again[partition] = offset
                elif partition in self._missed:
                    again[partition] = offset
            if again:
                self._commit()  # see `GroupReader.rewind`
                self._reader.rewind(again)
                self._missed.difference_update(again)
            self._reader.resume(done)

    def _revoked(self, partitions: list[int]) -> None:
        try:
            self._commit()
        except BaseException:
            self._forget_transaction()  # another revocation may come before the error is answered
            raise
        finally:
            self._let_go(partitions)
            log.info("partitions revoked", partitions=sorted(partitions), owned=len(self._owned))

    def _lost(self, partitions: list[int]) -> None:
        """The group has given them away already: nothing of them may be committed."""
        self._forget_transaction()  # a revocation may come before the error is answered
        self._let_go(partitions)
        log.warning("partitions lost", partitions=sorted(partitions))
        raise TransactionAborted("partitions were lost to the group")

    def _let_go(self, partitions: list[int]) -> None:
        for partition in partitions:
            stage = self._owned.pop(partition, None)
            self._committed.pop(partition, None)
            self._commits.pop(partition, None)
            self._clear(partition)
            self._transaction.offsets.pop(partition, None)
            self._restorer.drop(partition)
            self._missed.discard(partition)
            if stage is not None:
                for state in stage.states.values():
                    state.store.close()
        self._replica.metrics.partitions.set(len(self._owned))


def _max_message_bytes(replica: Replica[Processor]) -> int:
    """The output topic's own limit, so that what is larger is refused here, where it costs one record its place."""
    topic = replica.pipeline.spec.topic(replica.stage.to)
    return int(topic.config.get("max.message.bytes", kafka_settings.MAX_MESSAGE_BYTES))

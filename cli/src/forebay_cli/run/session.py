"""A run from its first process to its last: start, watch, drain, stop.

One event loop holds everything. The flow is written down once, in `_flow`; beside it small loops observe the replicas, the
offsets and the broker, show the state, and change the number of replicas of stages with `autoscaling`. However the flow ends,
no process outlives `run`.
"""

import asyncio
import functools
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forebay.errors import ForebayError
from forebay.pipeline import names
from forebay.pipeline.spec import ConsumingStage, Pipeline, Producer
from forebay.planning.scaling import Verdict, look_again_s
from forebay_cli.embedded_kafka import EmbeddedKafka, EmbeddedKafkaError
from forebay_cli.run import draining, launches, observation, samples
from forebay_cli.run.draining import Lags, Patience
from forebay_cli.run.launches import AnyStage, Consuming, Launch, Surroundings
from forebay_cli.run.observation import OffsetReader
from forebay_cli.run.scaling import StageScaling, downstream
from forebay_cli.run.snapshots import Outcome, Snapshot, StageState
from forebay_cli.run.supervision import Phase, Replica
from forebay_cli.run.threads import in_daemon_thread
from forebay_cli.run.view import View

OBSERVE_EVERY_S = 1.0
SHOW_EVERY_S = 1.0
DRAIN_CHECK_S = 0.2
READY_WITHIN_S = 30.0
"""Sources wait so long for the stages behind them: a stage that starts at the latest offset would miss what comes before."""
STOP_GRACE_S = 20.0
"""A process that was asked to stop and did not within this time is killed."""
REAP_WITHIN_S = 3.0
BROKER_RESTARTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to run."""

    pipeline: Pipeline
    planned: tuple[Launch, ...]
    around: Surroundings
    duration_s: float | None
    drain_s: float
    expected_records: int | None


class BrokerGoneError(ForebayError):
    """The embedded broker cannot be kept running, and without it nothing can be drained."""


class Session:
    """One run of a Pipeline."""

    def __init__(
        self,
        plan: Plan,
        *,
        offsets: OffsetReader,
        scalings: Mapping[str, StageScaling],
        broker: EmbeddedKafka | None,
        view: View,
    ) -> None:
        self.was_ended_at_once = False
        self._plan, self._offsets, self._broker, self._view = plan, offsets, broker, view
        self._scalings = scalings
        self._replicas: dict[str, Replica] = {}
        self._leaving: list[Replica] = []
        self._gone: dict[str, samples.Sample] = {}
        """What replicas did that were not needed any more, by stage."""
        self._write: Callable[[bytes], None] = lambda _lines: None
        self._lives: list[asyncio.Task[None]] = []
        self._activity = {stage.name: samples.Activity() for stage in plan.pipeline.spec.stages}
        self._lags: Lags = {}
        self._reading, self._looking = asyncio.Lock(), asyncio.Lock()
        self._end_at_once: Callable[[], object] = lambda: None
        self._phase = "starting"
        self._hurried_since: float | None = None
        self._interrupted = False
        self._output_is_open = True
        self._killed: list[str] = []
        self._broker_failure: str | None = None
        self._began = 0.0
        self._ended: float | None = None

    async def run(self, write: Callable[[bytes], None]) -> Outcome:
        """Run to the end. `write` takes the output of stdout sinks in whole lines; an OSError of it ends the run."""
        self._began = self._now()
        self._write = write
        for launch in self._plan.planned:
            self._add(launch)
        self._listen_for_signals()
        watching: list[asyncio.Task[None]] = [
            asyncio.create_task(each)
            for each in (
                *(self._watch_replicas(), self._watch_offsets(), self._watch_broker(), self._show()),
                *(self._scale(scaling) for scaling in self._scalings.values()),
            )
        ]
        flow = asyncio.create_task(self._flow())
        tasks: set[asyncio.Task[Any]] = {flow, *watching}
        self._end_at_once = flow.cancel
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for observer in watching:
                if observer.done():
                    observer.result()  # an error of ours, but for the broker's, which the flow notices
            return await flow
        except BrokerGoneError as error:
            return Outcome(ok=False, reason=str(error))
        except asyncio.CancelledError:
            if not self.was_ended_at_once:
                raise
            return Outcome(ok=False, reason="ended at once, before everything in flight was processed")
        finally:
            for task in tasks:
                task.cancel()
            for replica in (*self._replicas.values(), *self._leaving):
                replica.kill()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._reap()
            self._ended = self._now()
            self._count()
            self._view.show(self.snapshot())
            self._view.close()

    def snapshot(self) -> Snapshot:
        """The state of the run now."""
        return Snapshot(
            pipeline=self._plan.pipeline.metadata.name,
            phase=self._phase,
            seconds=(self._now() if self._ended is None else self._ended) - self._began,
            bootstrap=self._plan.around.bootstrap,
            folder=str(self._plan.around.folder),
            stages=tuple(self._stage_state(stage) for stage in self._plan.pipeline.spec.stages),
            expected=self._plan.expected_records,
        )

    def stop(self) -> None:
        """Drain and end; asked a second time, end at once."""
        if self._interrupted:
            self.was_ended_at_once = True
            self._end_at_once()
            return
        self._interrupt()
        self._view.say("stopping: sources stop, everything in flight is processed; once more ends at once")

    def _interrupt(self) -> None:
        self._interrupted = True
        self._hurry()

    def _add(self, launch: Launch) -> Replica:
        replica = Replica(launch, self._plan.around, say=self._view.say, pass_on=self._pass_on)
        self._replicas[launch.name] = replica
        return replica

    async def _pass_on(self, lines: bytes) -> None:
        if not self._output_is_open:
            return
        try:
            await in_daemon_thread(functools.partial(self._write, lines))  # a reader may be slow
        except OSError:
            self._output_is_open = False
            self._view.say("nobody reads standard output any more: stopping")
            self._interrupt()

    async def _flow(self) -> Outcome:
        """The story of a run, in order."""
        readers, sources = self._of(Consuming), self._of(Producer)
        self._start(readers)
        await self._until(lambda: self._is_over() or all(replica.is_ready for replica in readers), READY_WITHIN_S)
        if not self._is_over():
            self._phase = "running"
            self._start(sources)
            await self._until(self._is_over, self._plan.duration_s)
        self._phase = "draining"
        await self._stop_sources(sources)
        left = await self._drain()
        self._phase = "stopping"
        await self._stop(self._of(Consuming))
        self._phase = "done"
        return self._outcome(left)

    def _is_over(self) -> bool:
        if self._failed():
            self._hurry()
            return True
        sources = self._of(Producer)
        done = bool(sources) and all(replica.phase is Phase.COMPLETED for replica in sources)
        return self._interrupted or (done and launches.ends_by_itself(self._plan.pipeline, self._plan.planned))

    def _outcome(self, left: Iterable[str]) -> Outcome:
        failed = [f"{stage.name} failed for good: {stage.failure}" for stage in self.snapshot().stages if stage.failure]
        killed = [f"{name} did not stop when asked to and was killed" for name in self._killed]
        reasons = [*failed, *left, *killed]
        return Outcome(ok=not reasons, reason="; ".join(reasons) or None)

    async def _drain(self) -> tuple[str, ...]:
        """Wait until everything in flight has been processed; what is left when patience is over, in sentences."""
        patience = Patience(self._plan.drain_s)
        self._offsets.freeze()
        before, moved, progressed_at = None, None, self._now()
        while True:
            failed = {replica.launch.stage.name for replica in self._failed()}
            if failed:
                self._hurry()
            now = await self._observe_lags()
            if draining.is_drained(before, now, failed=failed):
                return ()
            if None not in now.values() and now != moved:
                moved, progressed_at = now, self._now()
            if patience.is_over(now=self._now(), last_progress=progressed_at, hurried_since=self._hurried_since):
                return tuple(self._unfinished(draining.left_over(now, failed=failed)))
            before = now
            await self._until(lambda: False, DRAIN_CHECK_S)

    def _unfinished(self, lags: Lags) -> Iterator[str]:
        for stage, lag in lags.items():
            records = "an unknown number of" if lag is None else f"about {lag}"
            yield (
                f"{stage} still had {records} records to process when the drain was given up; "
                f"--drain-timeout gives it longer than {self._plan.drain_s:g} s"
            )

    def _start(self, replicas: Iterable[Replica]) -> None:
        self._lives += [asyncio.create_task(replica.supervise(), name=replica.launch.name) for replica in replicas]

    async def _stop_sources(self, sources: list[Replica]) -> None:
        """A source that has just died is started once more: its successor ends the transaction that it left open."""
        for replica in sources:
            replica.hasten()
        await self._until(lambda: not any(replica.may_leave_open for replica in sources), STOP_GRACE_S)
        await self._stop(sources)

    async def _stop(self, replicas: Iterable[Replica]) -> None:
        going = [replica for replica in replicas if replica.is_started and not replica.phase.is_final]
        for replica in going:
            replica.stop()
        await self._until(lambda: all(replica.phase.is_final for replica in going), STOP_GRACE_S)
        for replica in going:
            if not replica.phase.is_final:
                self._view.say(f"{replica.launch.name} did not stop within {STOP_GRACE_S:g} s and is killed")
                self._killed.append(replica.launch.name)
                replica.kill()
        await self._until(lambda: all(replica.phase.is_final for replica in going), STOP_GRACE_S)

    async def _reap(self) -> None:
        """Collect the killed processes; a life that still passes output on to a stuck reader is cut off."""
        if self._lives:
            _, stuck = await asyncio.wait(self._lives, timeout=REAP_WITHIN_S)
            for life in stuck:
                life.cancel()
            await asyncio.gather(*self._lives, return_exceptions=True)

    async def _until(self, condition: Callable[[], bool], timeout_s: float | None) -> None:
        """Wait for a condition of this object's own state, which is cheap to look at."""
        deadline = None if timeout_s is None else self._now() + timeout_s
        while not condition() and (deadline is None or self._now() < deadline):
            for life in self._lives:
                if life.done():
                    life.result()  # it raises errors of ours only
            if self._broker_failure is not None:
                raise BrokerGoneError(self._broker_failure)
            await asyncio.sleep(0.05)

    async def _watch_replicas(self) -> None:
        async def watch(replica: Replica) -> None:
            if (pid := replica.pid) is not None:
                scrape = await observation.scrape(replica.port)
                if scrape is not None:
                    replica.observe(pid, scrape.sample, ready=scrape.is_ready)
            replica.rotate_log()

        async def watch_all() -> None:
            await asyncio.gather(*(watch(replica) for replica in self._replicas.values()))
            self._count()

        await self._every(OBSERVE_EVERY_S, watch_all)

    async def _watch_offsets(self) -> None:
        async def watch() -> None:
            if self._phase != "draining":  # then the drain observes, more often
                await self._observe_lags()

        await self._every(OBSERVE_EVERY_S, watch)

    async def _observe_lags(self) -> Lags:
        async with self._reading:  # an OffsetReader serves one call at a time
            self._lags = await in_daemon_thread(self._offsets.lags)
        return self._lags

    async def _scale(self, scaling: StageScaling) -> None:
        """Looks at a stage for as long as it has something to do, and carries out what is decided."""
        try:
            while True:
                if self._phase in {"running", "draining"}:
                    await asyncio.sleep(await self._scale_once(scaling))
                else:
                    await asyncio.sleep(OBSERVE_EVERY_S)
        finally:
            scaling.write()

    async def _scale_once(self, scaling: StageScaling) -> float:
        """One look at a stage; the seconds until the next."""
        stage = scaling.stage
        replicas = self._of_stage(stage)
        look = functools.partial(
            scaling.look,
            now=self._now(),
            replicas=len(replicas),
            ready=sum(replica.is_ready for replica in replicas),
            downstream=downstream(stage, self._plan.pipeline, self._scalings),
        )
        async with self._looking:  # an Admin serves one call at a time
            seen = await in_daemon_thread(look)
        verdict = scaling.decide(seen)
        if scaling.has_news:
            await in_daemon_thread(scaling.write)
        is_wanted = verdict.replicas > len(replicas) or self._phase == "running"
        if verdict.is_change and is_wanted and not self._has_failed(stage):
            self._rescale(stage, verdict)
        return look_again_s(verdict)

    def _rescale(self, stage: Consuming, verdict: Verdict) -> None:
        """Replicas come with the next ordinals and go with the last ones, as in a StatefulSet."""
        present = self._of_stage(stage)
        leaving = {replica.launch.name for replica in self._leaving}
        launching = [Launch(stage=stage, ordinal=ordinal) for ordinal in range(len(present), verdict.replicas)]
        if any(launch.name in leaving for launch in launching):
            return  # its predecessor is on its way out; the next look decides again
        self._view.say(
            f"{stage.name}: {len(present)} -> {verdict.replicas} replicas ({verdict.reason}): {verdict.sentence}"
        )
        self._start([self._add(launch) for launch in launching])
        for replica in sorted(present, key=lambda replica: replica.launch.ordinal)[verdict.replicas :]:
            del self._replicas[replica.launch.name]
            self._leaving.append(replica)
            self._lives.append(asyncio.create_task(self._see_off(replica)))

    async def _see_off(self, replica: Replica) -> None:
        """Let a replica finish, commit and leave its group; what it did stays counted."""
        replica.stop()
        await self._stop([replica])
        stage = replica.launch.stage.name
        self._leaving.remove(replica)
        self._gone[stage] = samples.total([*filter(None, [self._gone.get(stage)]), replica.tally.total])

    async def _watch_broker(self) -> None:
        restarts = 0
        while True:
            await asyncio.sleep(OBSERVE_EVERY_S)
            if self._broker is None or self._broker.is_alive():
                continue
            restarts += 1
            reason = f"Kafka ended: {self._broker.exit_reason()}"
            if restarts > BROKER_RESTARTS:
                self._broker_failure = f"{reason}; it was started again {BROKER_RESTARTS} times"
                return
            self._view.say(f"{reason}; starting it again on the same port")
            try:
                await in_daemon_thread(self._broker.restart)
            except EmbeddedKafkaError as error:
                self._broker_failure = str(error)
                return

    async def _show(self) -> None:
        async def show() -> None:
            self._view.show(self.snapshot())

        await self._every(SHOW_EVERY_S, show)

    async def _every(self, seconds: float, do: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            began = self._now()
            await do()
            await asyncio.sleep(max(seconds / 5, seconds - (self._now() - began)))

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)

    def _hurry(self) -> None:
        self._hurried_since = self._hurried_since or self._now()

    def _of(self, kind: Any) -> list[Replica]:
        return [replica for replica in self._replicas.values() if isinstance(replica.launch.stage, kind)]

    def _of_stage(self, stage: AnyStage) -> list[Replica]:
        return [replica for replica in self._replicas.values() if replica.launch.stage is stage]

    def _failed(self) -> list[Replica]:
        return [replica for replica in self._replicas.values() if replica.failure is not None]

    def _has_failed(self, stage: AnyStage) -> bool:
        return any(replica.failure is not None for replica in self._of_stage(stage))

    def _count(self) -> None:
        for stage in self._plan.pipeline.spec.stages:
            self._activity[stage.name].observe(self._now(), self._counted(stage).moved)

    def _counted(self, stage: AnyStage) -> samples.Sample:
        present = [replica for replica in (*self._replicas.values(), *self._leaving) if replica.launch.stage is stage]
        gone = [self._gone[stage.name]] if stage.name in self._gone else []
        return samples.total([*gone, *(replica.tally.total for replica in present)])

    def _stage_state(self, stage: AnyStage) -> StageState:
        replicas = self._of_stage(stage)
        activity = self._activity[stage.name]
        return StageState(
            name=stage.name,
            kind=launches.kind_of(stage),
            replicas=len(replicas),
            ready=sum(replica.is_ready for replica in replicas),
            done=sum(replica.phase in {Phase.COMPLETED, Phase.STOPPED} for replica in replicas),
            counted=self._counted(stage),
            rate=activity.rate,
            average=activity.average,
            lag=self._lags.get(stage.name),
            restarts=sum(replica.restarts for replica in replicas),
            output=launches.output_of(stage, self._plan.around),
            dead_letter_topic=names.dead_letter_topic(stage) if isinstance(stage, ConsumingStage) else None,
            failure=next((replica.failure for replica in replicas if replica.failure), None),
        )

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

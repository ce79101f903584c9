"""One replica: a process that is started, watched, started again after a death, and asked to stop.

The listening socket of its /metrics belongs to the supervisor and is handed to every life of the process, so the port stays
the same and no other program can take it between two lives.
"""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path

from forebay_cli.run import launches, restarts, samples
from forebay_cli.run.launches import Launch, Surroundings
from forebay_cli.run.restarts import End, History, Life

MAX_LOG_BYTES = 8 << 20
"""A longer log becomes NAME.log.1, in place of the one before."""
_TAIL_BYTES = 64 << 10
_STDOUT_CHUNK_BYTES = 64 << 10


class Phase(StrEnum):
    """Where a replica is in its life; the last three are for good."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether the process is gone and does not come back."""
        return self in (Phase.COMPLETED, Phase.STOPPED, Phase.FAILED)


class Replica:
    """A supervised process. `supervise` is its life; everything else may be called meanwhile from the same event loop."""

    def __init__(
        self,
        launch: Launch,
        around: Surroundings,
        *,
        say: Callable[[str], None],
        pass_on: Callable[[bytes], Awaitable[None]],
    ) -> None:
        self.launch = launch
        self.phase = Phase.WAITING
        self.tally = samples.Tally()
        self.restarts = 0
        self.failure: str | None = None
        """Why it failed for good."""
        self._around = around
        self._say, self._pass_on = say, pass_on
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._process: asyncio.subprocess.Process | None = None
        self._ready_since: float | None = None
        self._history = History()
        self._stopping = False
        self._wake = asyncio.Event()
        self._died = False

    @property
    def is_started(self) -> bool:
        """Whether `supervise` was begun."""
        return self._process is not None or self.phase.is_final

    @property
    def may_leave_open(self) -> bool:
        """Whether its last process died and no later one was ready: a transaction may be open, which hides what follows it."""
        return self._died and not self.is_ready and not self.phase.is_final

    @property
    def port(self) -> int:
        """The loopback port of /metrics and /readyz, the same for all lives."""
        return int(self._socket.getsockname()[1])

    @property
    def pid(self) -> int | None:
        """The id of the process that runs now, None between lives."""
        return self._process.pid if self._process and self.phase is Phase.RUNNING else None

    @property
    def is_ready(self) -> bool:
        """Whether it said so when it was asked last."""
        return self.phase is Phase.RUNNING and self._ready_since is not None

    def observe(self, pid: int, sample: samples.Sample, *, ready: bool) -> None:
        """The process with this id was scraped; ignored when that life is over."""
        if pid != self.pid:
            return
        self.tally.observe(sample)
        now = asyncio.get_running_loop().time()
        self._ready_since = (self._ready_since or now) if ready else None

    async def supervise(self) -> None:
        """Run until it is completed, failed for good, or asked to stop. When cancelled it kills the process."""
        try:
            while not self._stopping:
                life = await self._live()
                if self._stopping:
                    break
                self._died = True
                self._history = self._history.after(life)
                verdict = restarts.decide(
                    self._history,
                    life,
                    may_complete=self.launch.is_bounded,
                    jitter=random.random(),  # noqa: S311 - spreads restarts, guards nothing
                )
                if isinstance(verdict, End):
                    self._conclude(verdict, life)
                    return
                self.phase = Phase.WAITING
                self.restarts += 1
                self._say(
                    f"{self.launch.name} ended: {restarts.cause(life.returncode)}; starting it again in {verdict:.1f} s"
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), verdict)
                self._wake.clear()
            self.phase = Phase.STOPPED
        except OSError as error:
            self.phase, self.failure = Phase.FAILED, f"its process cannot be started: {error.strerror or error}"
        finally:
            self.kill()
            self._socket.close()

    def stop(self) -> None:
        """Ask the process to finish its batch, commit and leave; a dead one is not started again."""
        self._stopping = True
        self._wake.set()
        self._signal(signal.SIGTERM)

    def hasten(self) -> None:
        """Start a dead process again without waiting any longer."""
        if self.phase is Phase.WAITING:
            self._wake.set()

    def kill(self) -> None:
        """End the process at once, stopped ones included."""
        self._stopping = True
        self._wake.set()
        self._signal(signal.SIGKILL)

    def rotate_log(self) -> None:
        """Keep the log bounded. The process appends to the file it has open, so that is copied and emptied."""
        log = self._around.log_file(self.launch)
        with contextlib.suppress(OSError):
            if log.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(log, log.with_suffix(".log.1"))
                os.truncate(log, 0)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _live(self) -> Life:
        """One process from start to end."""
        last_metrics = self._around.last_metrics_file(self.launch)
        last_metrics.unlink(missing_ok=True)
        self._process = await self._spawn()
        self.phase, self._ready_since = Phase.RUNNING, None
        if self._stopping:  # asked to stop while it was being started
            self._signal(signal.SIGTERM)
        if self._process.stdout is not None:
            await self._pass_lines(self._process.stdout)
        returncode = await self._process.wait()
        with contextlib.suppress(OSError, ValueError):
            self.tally.observe(samples.parse(last_metrics.read_text()))
        now = asyncio.get_running_loop().time()
        life = Life(
            returncode=returncode,
            ready_s=now - self._ready_since if self._ready_since else 0.0,
            progressed=self.tally.life.moved > 0,
        )
        self.tally.ended()
        last_metrics.unlink(missing_ok=True)
        return life

    async def _spawn(self) -> asyncio.subprocess.Process:
        folder = self._around.data_folder(self.launch)
        folder.mkdir(parents=True, exist_ok=True)
        service = f"forebay_{launches.kind_of(self.launch.stage)}"
        with self._around.log_file(self.launch).open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                service,
                cwd=folder,
                env=launches.environment(self.launch, self._around, os.environ, self._socket.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if self.launch.writes_to_stdout else log,
                stderr=log,
                pass_fds=[self._socket.fileno()],
                start_new_session=True,  # a Ctrl-C on the terminal is the supervisor's to handle
            )

    async def _pass_lines(self, output: asyncio.StreamReader) -> None:
        """Pass standard output on in whole lines: several replicas write to the same one. A cut last line is dropped."""
        pending = b""
        while chunk := await output.read(_STDOUT_CHUNK_BYTES):
            lines, newline, pending = (pending + chunk).rpartition(b"\n")
            if newline:
                await self._pass_on(lines + newline)

    def _conclude(self, end: End, life: Life) -> None:
        if end is End.COMPLETED:
            self.phase = Phase.COMPLETED
            return
        self.phase = Phase.FAILED
        word = last_word(self._around.log_file(self.launch)) or restarts.cause(life.returncode)
        died = f"it died {self._history.fruitless} times in a row without achieving anything, the last time: "
        self.failure = word if end is End.REFUSED else died + word
        self._say(f"{self.launch.name} failed for good: {self.failure}")


def last_word(log: Path) -> str | None:
    """The last reason in a log, or else its last line; None when it is empty or unreadable."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and "reason" in entry:
                return str(entry["reason"])
            if isinstance(entry, dict) and "exception" in entry:
                return str(entry["exception"]).strip().splitlines()[-1]
    return lines[-1] if lines else None

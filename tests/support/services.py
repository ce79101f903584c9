"""Running a service's real process against a real broker, as Kubernetes or `forebay run` would."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

DEADLINE_S = 60


def unready(service) -> str | None:
    """Why the service is not ready; None when it is."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/readyz", timeout=5):
            return None
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return "not reachable"


def until(condition, *, what: str, deadline_s: float = DEADLINE_S, every_s: float = 0.1):
    """The condition's first true value; fails by naming what never happened."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"not within {deadline_s} s: {what}")


def until_it_has_all(service, partitions: int) -> None:
    """Wait until a processor owns so many partitions, and their state is restored: its local stores hold everything then."""

    def restored() -> set[int]:
        found: set[int] = set()
        for line in service.log().splitlines(keepends=True):
            if not line.startswith("{") or not line.endswith("\n"):
                continue  # the client's own words, or half a line
            said = json.loads(line)
            match said["event"]:
                case "started":
                    found.clear()
                case "state restored":
                    found.add(said["partition"])
                case "partitions assigned" | "partitions revoked" | "partitions lost":
                    found.difference_update(said["partitions"])
        return found

    until(lambda: len(restored()) == partitions, what="it has all partitions, restored")


class Service:
    """One replica's process. `pipeline` is the YAML text; without `bootstrap` its spec.kafka holds."""

    def __init__(
        self, folder: Path, pipeline: str, stage: str, kind: str, bootstrap: str | None, ordinal: int = 0, **extra
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.pipeline_file = folder / "pipeline.yaml"
        self.pipeline_file.write_text(pipeline)
        self.log_file = folder / f"{stage}-{ordinal}.log"
        self.command = [sys.executable, "-m", f"forebay_{kind}"]
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "FOREBAY_PIPELINE": str(self.pipeline_file),
            "FOREBAY_STAGE": stage,
            "FOREBAY_ORDINAL": str(ordinal),
            "FOREBAY_DATA": str(folder / f"{stage}-{ordinal}"),
            "FOREBAY_HTTP_HOST": "127.0.0.1",
            "FOREBAY_HTTP_PORT": "0",
            "FOREBAY_LOG_FORMAT": "json",
            **({} if bootstrap is None else {"FOREBAY_BOOTSTRAP": bootstrap}),
            **extra,
        }
        self.process: subprocess.Popen | None = None

    def start(self) -> "Service":
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)
        return self

    def until_started(self) -> None:
        """Wait until the process answers to signals."""
        until(lambda: f'"pid": {self.process.pid},' in self.log(), what="the service is started", every_s=0.02)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self, deadline_s: float = 30) -> int:
        """SIGTERM, and the exit status."""
        self.process.terminate()
        return self.process.wait(deadline_s)

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        return self.process.wait(deadline_s)

    def is_frozen(self) -> bool:
        """Whether the process has stopped itself."""
        return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def port(self) -> int:
        """Where it serves probes and metrics; 0 until it says so."""
        said = re.findall(r'"http_port": (\d+)', self.log())
        return int(said[-1]) if said else 0

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; 0 while there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return 0.0
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def __enter__(self) -> "Service":
        return self.start()

    def __exit__(self, exception, *_rest) -> None:
        if exception is not None:
            print(f"--- the end of {self.log_file.name}:", self.log()[-4_000:], sep="\n")
        if self.is_running():
            self.process.send_signal(signal.SIGCONT)
            self.kill()


class Supervised(Service):
    """A service that is started again when its transaction has outlived its time-out, as every supervisor would.

    A producer cannot tell that from a successor that has fenced it, and ends its process. Any other end is final.
    """

    def start(self) -> "Service":
        super().start()
        threading.Thread(target=self._start_again_when_fenced, daemon=True).start()
        return self

    def _start_again_when_fenced(self) -> None:
        while self.process.wait() == 1:
            failed = [line for line in self.log().splitlines() if '"event": "failed"' in line]
            if not failed or '"error": "Fenced"' not in failed[-1]:
                return
            super().start()

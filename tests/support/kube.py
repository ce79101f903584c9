"""Runs the real kubectl and helm against the cluster of KUBECONFIG, as a user would."""

import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from services import until

import charts


class CommandError(AssertionError):
    """What a command wrote when it failed."""


def kubectl(*arguments: str, stdin: str = "", namespace: str | None = None, timeout_s: float = 120) -> str:
    """What kubectl prints; CommandError says why it failed."""
    place = ("--namespace", namespace) if namespace else ()
    return _run(_command("kubectl"), *place, *arguments, stdin=stdin, timeout_s=timeout_s)


def helm(*arguments: str, stdin: str = "", timeout_s: float = 400) -> str:
    """What helm prints; CommandError says why it failed."""
    return _run(charts.tool("helm"), *arguments, stdin=stdin, timeout_s=timeout_s)


def get(*arguments: str, namespace: str | None = None) -> list[dict]:
    """The objects that `kubectl get` finds."""
    return json.loads(kubectl("get", *arguments, "--output", "json", namespace=namespace))["items"]


def apply(text: str, namespace: str | None = None) -> None:
    kubectl("apply", "--filename", "-", namespace=namespace, stdin=text)


def create_namespace(name: str) -> None:
    """A namespace that takes only pods of the restricted Pod Security Standard."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "forebay.dev/test": "cluster"}
    apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))


def delete_namespace(name: str, *, wait: bool = False) -> None:
    kubectl("delete", "namespace", name, "--ignore-not-found", f"--wait={str(wait).lower()}", timeout_s=300)


def explain(namespace: str) -> str:
    """What a person would look at first: pods, events, the last log lines of each container, and where its threads stand."""
    parts = []

    def add(title: str, *arguments: str) -> None:
        try:
            parts.append(f"--- {title}\n{kubectl(*arguments, namespace=namespace).strip()}")
        except (CommandError, subprocess.TimeoutExpired) as error:
            parts.append(f"--- {title}: {error}")

    add(f"pods of {namespace}", "get", "pods", "--output", "wide")
    add("events", "get", "events", "--sort-by", ".lastTimestamp")
    pods = get("pods", namespace=namespace)
    for pod in pods:
        name = pod["metadata"]["name"]
        if any(state["restartCount"] for state in pod["status"].get("containerStatuses", ())):
            add(f"{name}, before its last restart", "logs", name, "--tail", "15", "--previous")
        add(name, "logs", name, "--tail", "15")
        if "forebay.dev/stage" in pod["metadata"].get("labels", {}):
            add(f"threads of {name}", "exec", name, "--", "sh", "-c", "kill -USR1 1")
            add(name, "logs", name, "--since", "3s")
    return "\n".join(parts)


@contextmanager
def exit_codes(namespace: str) -> Iterator[dict[str, int]]:
    """The exit codes of the containers that end inside the `with` block, by pod; filled in when it is left."""
    found: dict[str, int] = {}
    form = '{.metadata.name} {.status.containerStatuses[0].state.terminated.exitCode}{"\\n"}'
    command = [_command("kubectl"), "--namespace", namespace, "get", "pods", "--watch", "--output", f"jsonpath={form}"]
    with tempfile.TemporaryFile("w+") as seen:
        watch = subprocess.Popen(command, stdout=seen)
        try:
            yield found
        finally:
            watch.terminate()
            watch.wait()
        seen.seek(0)
        found |= {fields[0]: int(fields[1]) for fields in map(str.split, seen) if len(fields) == 2}


class Forward:
    """A port of `service/NAME` or `pod/NAME` on this machine, in a `with` block; started anew when the connection was lost."""

    def __init__(self, namespace: str, target: str, port: int, local_port: int | None = None) -> None:
        self._target = (namespace, target, port)
        self._local_port = local_port or free_port()
        self._process: subprocess.Popen | None = None

    @property
    def port(self) -> int:
        """The local port, once it takes connections."""
        namespace, target, port = self._target
        if self._process is None or self._process.poll() is not None:
            self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
            command = [_command("kubectl"), "--namespace", namespace, "port-forward", target]
            self._process = subprocess.Popen(
                [*command, f"{self._local_port}:{port}"], stdout=self._log, stderr=subprocess.STDOUT
            )
            until(self._listens, what=f"kubectl forwards {target} of {namespace}", deadline_s=20)
        return self._local_port

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            self._log.seek(0)
            raise CommandError(f"kubectl port-forward ended: {self._log.read()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._local_port)) == 0

    def renew(self) -> int:
        """Find the pod that there is now, on the same local port. By itself kubectl notices a lost pod only when used."""
        self.end()
        return self.port

    def end(self) -> None:
        """Let go of the pod."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
            self._log.close()

    def __enter__(self) -> "Forward":
        return self

    def __exit__(self, *_rest) -> None:
        self.end()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _command(name: str) -> str:
    return shutil.which(name) or charts.tool(name)


def _run(*command: str, stdin: str, timeout_s: float) -> str:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=charts.ROOT
    )
    if done.returncode:
        raise CommandError(f"`{' '.join(command[1:6])} ...` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout

"""The operator as a process on this machine, against the cluster of KUBECONFIG and an embedded Kafka.

What it decides and writes is the same as in a pod. Pods that it makes need not run: the cluster may be an API server alone.
"""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import kube
import topics
from confluent_kafka.admin import AdminClient
from prometheus_client.parser import text_string_to_metric_families
from services import until

import charts
from forebay.kafka.admin import Admin

SPEC = {
    "topics": [
        {"name": "raw", "partitions": 2, "replicationFactor": 1},
        {"name": "enriched", "partitions": 2, "replicationFactor": 1},
    ],
    "producers": [{"name": "devices", "to": "raw", "key": {"field": "device_id"}, "source": {"simulator": {}}}],
    "processors": [
        {
            "name": "enrich",
            "from": "raw",
            "to": "enriched",
            "transforms": [{"name": "average", "movingAverage": {"field": "temperature_c", "output": "avg"}}],
        }
    ],
    "sinks": [{"name": "store", "from": "enriched", "destination": {"stdout": {}}}],
}


class Operated:
    """A namespace with its operator. Topics are named after the namespace, for the broker is shared."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        self.kubeconfig = os.environ["KUBECONFIG"]
        """By which the operator finds the cluster."""
        self.namespace = topics.unique("op")
        self.processes: list[subprocess.Popen] = []
        self._ports: dict[int, int] = {}
        self.admin = Admin({"bootstrap.servers": bootstrap})

    # -- the operator ---------------------------------------------------------------------------------------------

    def start(self, **environment: str) -> subprocess.Popen:
        """One more operator."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        number = len(self.processes)
        variables = {
            "NAMESPACES": self.namespace,
            "NAMESPACE": self.namespace,
            "IDENTITY": f"operator-{number}",
            "HELM": charts.tool("helm"),
            "CHART": str(charts.CHART),
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(port),
            "LOG_FORMAT": "json",
            "RESYNC_S": "5",
            "MEASURE_S": "2",
            **environment,
        }
        with (self.folder / f"operator-{number}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "forebay_operator"],
                env={"PATH": os.environ["PATH"], "KUBECONFIG": self.kubeconfig, "HOME": str(self.folder)}
                | {f"FOREBAY_OPERATOR_{name}": value for name, value in variables.items()},
                stderr=log,
                stdout=log,
            )
        self.processes.append(process)
        self._ports[process.pid] = port
        return process

    def log(self, number: int = 0) -> list[dict]:
        text = (self.folder / f"operator-{number}.log").read_text()
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def steps(self, number: int = 0) -> list[str]:
        """What the operator did."""
        return [line["step"] for line in self.log(number) if line["event"] == "step"]

    def until_leading(self, number: int = 0) -> None:
        until(lambda: any(line["event"] == "leading" for line in self.log(number)), what="an operator leads")

    def kill(self, process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait(10)

    def stop(self, process: subprocess.Popen) -> int:
        process.terminate()
        return process.wait(40)

    def metric(self, process: subprocess.Popen, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports[process.pid]}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    # -- Pipelines ------------------------------------------------------------------------------------------------

    def topic(self, name: str, pipeline: str = "sensors") -> str:
        return f"{self.namespace}.{pipeline}.{name}"

    def spec(self, name: str = "sensors", **changes) -> dict:
        """The spec of a Pipeline with topics of its own."""
        spec = copy.deepcopy({"kafka": {"bootstrapServers": self.bootstrap}, **SPEC, **changes})
        for topic in spec["topics"]:
            topic["name"] = self.topic(topic["name"], name)
        for stage in (*spec["producers"], *spec["processors"], *spec["sinks"]):
            for end in ("from", "to"):
                if end in stage:
                    stage[end] = self.topic(stage[end], name)
        return spec

    def apply(self, name: str = "sensors", *, spec: dict | None = None, **changes) -> None:
        body = {
            "apiVersion": "forebay.dev/v1alpha1",
            "kind": "Pipeline",
            "metadata": {"name": name},
            "spec": spec or self.spec(name, **changes),
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        return kube.kubectl(*arguments, stdin=stdin, namespace=self.namespace)

    def pipeline(self, name: str = "sensors") -> dict:
        return json.loads(self.kubectl("get", "pipeline", name, "-o", "json"))

    def condition(self, kind: str, name: str = "sensors") -> dict:
        conditions = self.pipeline(name).get("status", {}).get("conditions", ())
        return next(
            (found for found in conditions if found["type"] == kind), {"status": "?", "reason": "?", "message": ""}
        )

    def until_condition(self, kind: str, reason: str, name: str = "sensors", deadline_s: float = 60) -> dict:
        until(
            lambda: self.condition(kind, name)["reason"] == reason,
            what=f"{kind} of {name} is {reason}",
            deadline_s=deadline_s,
            every_s=0.3,
        )
        return self.condition(kind, name)

    def until_deployed(self, name: str = "sensors", deadline_s: float = 90) -> None:
        """Topics are as wanted, and everything is applied."""
        self.until_condition("TopicsReady", "AsWanted", name, deadline_s)
        until(
            lambda: len(self.names("statefulset,deployment", name)) == 3,
            what=f"the workloads of {name} are there",
            deadline_s=deadline_s,
            every_s=0.3,
        )

    def names(self, kinds: str, name: str = "sensors") -> set[str]:
        found = self.kubectl("get", kinds, "-l", f"forebay.dev/pipeline={name}", "-o", "name")
        return set(found.split())

    def get(self, kind: str, name: str) -> dict:
        return json.loads(self.kubectl("get", kind, name, "-o", "json"))

    def events(self, reason: str) -> list[str]:
        found = json.loads(self.kubectl("get", "events.v1.events.k8s.io", "-o", "json"))["items"]
        return [event["note"] for event in found if event["reason"] == reason]

    def kafka_topics(self) -> set[str]:
        """The topics of this namespace."""
        return {
            name
            for name in AdminClient({"bootstrap.servers": self.bootstrap}).list_topics(timeout=20).topics
            if name.startswith(f"{self.namespace}.")
        }

    def __enter__(self) -> "Operated":
        kube.create_namespace(self.namespace)
        return self

    def __exit__(self, *_rest) -> None:
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)
        finalizers = json.dumps({"metadata": {"finalizers": []}})
        for name in self.kubectl("get", "pipelines", "-o", "name").split():
            with suppress(kube.CommandError):  # gone already
                self.kubectl("patch", name, "--type=merge", "-p", finalizers)
        self.kubectl("delete", "pipelines,statefulsets,deployments,services,pdb,configmaps", "--all", "--wait=false")
        kube.delete_namespace(self.namespace)


def quiet(seconds: float, happened) -> list:
    """What `happened()` still returns after a while in which nothing should."""
    time.sleep(seconds)
    return happened()

"""The operator as users install it, in a namespace of its own with Kafka and PostgreSQL at hand."""

import json
import os
import time

import kube
import topics
import yaml
from services import until
from surroundings import Surroundings

import charts

CHART = charts.ROOT / "charts/operator"
SAMPLE = charts.ROOT / "manifests/samples/01-sensors/cluster.yaml"
RELEASE = "forebay"
NAME = "sensors"


class Installed:
    """Use it as a context manager. Kafka is shared, so the Pipeline's topics are named after the namespace."""

    def __init__(self, surroundings: Surroundings) -> None:
        self.surroundings = surroundings
        self.namespace = topics.unique("op")
        self.table = self.namespace.replace("-", "_")

    @property
    def raw(self) -> str:
        return f"{self.namespace}.raw_sensor_events"

    @property
    def bootstrap(self) -> str:
        """Where this machine reaches Kafka; asked again, also after Kafka's pod was replaced."""
        return self.surroundings.bootstrap

    def install(self, **values) -> None:
        """`helm install` of charts/operator, and wait until it runs. The definition is shared and stays."""
        registry = os.environ.get("FOREBAY_REGISTRY") or "localhost"
        chosen = {
            "image": {"registry": registry},
            "images": {"registry": registry},
            "crds": {"enabled": False},
            **values,
        }
        where = ("--namespace", self.namespace, "--values", "-", "--wait", "--timeout", "3m")
        kube.helm("upgrade", "--install", RELEASE, str(CHART), *where, stdin=json.dumps(chosen))

    def uninstall(self) -> None:
        kube.helm("uninstall", RELEASE, "--namespace", self.namespace, "--wait", "--timeout", "4m")

    def document(self, **changes) -> dict:
        """The sample, with names of this namespace, and parts of its spec replaced."""
        text = SAMPLE.read_text()
        for name in ("raw_sensor_events", "enriched_sensor_events"):
            text = text.replace(name, f"{self.namespace}.{name}")
        document = yaml.safe_load(text)
        document["spec"]["sinks"][0]["destination"]["postgres"]["table"] = self.table
        document["spec"] |= changes
        return document

    def apply(self, document: dict | None = None, **changes) -> float:
        """`kubectl apply`; the time of it."""
        kube.apply(json.dumps(document or self.document(**changes)), self.namespace)
        return time.monotonic()

    def kubectl(self, *arguments: str) -> str:
        return kube.kubectl(*arguments, namespace=self.namespace)

    def pipeline(self) -> dict:
        (found,) = [
            found for found in kube.get("pipelines", namespace=self.namespace) if found["metadata"]["name"] == NAME
        ]
        return found

    def condition(self, kind: str) -> dict:
        conditions = self.pipeline().get("status", {}).get("conditions", ())
        return next(
            (found for found in conditions if found["type"] == kind), {"status": "?", "reason": "?", "message": ""}
        )

    def until_ready(self, deadline_s: float = 120) -> None:
        def is_ready() -> bool:
            status = self.pipeline().get("status", {})
            is_current = status.get("observedGeneration") == self.pipeline()["metadata"]["generation"]
            return is_current and self.condition("Ready")["status"] == "True"

        until(is_ready, what="the Pipeline is ready", deadline_s=deadline_s, every_s=0.5)

    def until_reason(self, kind: str, reason: str, deadline_s: float = 120) -> dict:
        until(
            lambda: self.condition(kind)["reason"] == reason,
            what=f"{kind} is {reason}",
            deadline_s=deadline_s,
            every_s=0.5,
        )
        return self.condition(kind)

    def stored(self) -> int:
        if self.surroundings.sql(f"SELECT to_regclass('{self.table}')") == [(None,)]:
            return 0
        return self.surroundings.sql(f"SELECT count(*) FROM {self.table}")[0][0]

    def until_stored(self, count: int, deadline_s: float = 90) -> None:
        until(lambda: self.stored() >= count, what=f"{count} readings are stored", deadline_s=deadline_s, every_s=0.5)

    def operator_pod(self) -> str:
        selector = f"app.kubernetes.io/name=forebay-operator,app.kubernetes.io/instance={RELEASE}"
        found = kube.get("pods", "--selector", selector, namespace=self.namespace)
        (name,) = [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return name

    def metrics(self) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.operator_pod()}:8080/proxy/metrics"
        return kube.kubectl("get", "--raw", path)

    def __enter__(self) -> "Installed":
        kube.create_namespace(self.namespace)
        kube.apply(self.surroundings.aliases(), self.namespace)
        kube.apply(json.dumps(self.surroundings.secret), self.namespace)
        return self

    def __exit__(self, failure, *_rest) -> None:
        if failure is not None:
            print(kube.explain(self.namespace))
            print(self.kubectl("describe", "pipelines"))
        patch = json.dumps({"metadata": {"finalizers": []}})
        for found in kube.get("pipelines", namespace=self.namespace):
            if found["metadata"].get("finalizers"):
                self.kubectl("patch", "pipeline", found["metadata"]["name"], "--type=merge", "--patch", patch)
        kube.delete_namespace(self.namespace)

"""The development Kafka with listeners that ask who is there, and the operator's Pipeline on them."""

import base64
import json
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import kube
import topics
from authority import Authority
from installed import NAME, Installed
from kube import Forward
from pauses import Pauses
from prometheus_client.parser import text_string_to_metric_families
from sensors import STAGES, restarts
from surroundings import Surroundings

from forebay.kafka.admin import Admin
from forebay.kafka.users import Users
from forebay.pipeline.spec import SaslMechanism

ROOT, ROOT_PASSWORD = "root", "canary-of-root"
TENANT, TENANT_PASSWORD = "tenant", "canary-of-tenant"
"""A user with every right, and one with none."""
CLIENT = "sensors-client"
"""Whom a client certificate names."""
REAUTHENTICATE_MS = 20_000
"""Connections log in again so often: a user that was deleted cannot go on unseen."""
PORTS = {"tls": 9095, "mutual": 9096, "sasl": 9097}
TLS, MUTUAL, SASL = (f"kafka:{port}" for port in PORTS.values())

_FOLDER = "/etc/forebay-tls"


class Secured(Surroundings):
    """Listeners with TLS, with client certificates, and with logins inside TLS; ACLs are enforced. Tests reach it in plain."""

    def __init__(self, authority: Authority, *others: Authority) -> None:
        super().__init__()
        self.authority = authority
        self._trusted = b"".join(each.pem for each in (authority, *others))

    def changed(self, objects: list[dict]) -> list[dict]:
        found = {(each["kind"], each["metadata"]["name"]): each for each in objects}
        properties = found["ConfigMap", "kafka"]["data"]
        properties["server.properties"] = _with_listeners(properties["server.properties"])
        found["Service", "kafka"]["spec"]["ports"] += [
            {"name": name, "port": port, "targetPort": port} for name, port in PORTS.items()
        ]
        pod = found["StatefulSet", "kafka"]["spec"]["template"]["spec"]
        pod["volumes"].append({"name": "tls", "secret": {"secretName": "kafka-tls"}})
        pod["containers"][0]["volumeMounts"].append({"name": "tls", "mountPath": _FOLDER})
        keys = {
            "broker.pem": self.authority.issue("broker", "kafka").read_text(),
            "trusted.pem": self._trusted.decode(),
        }
        return [*objects, secret("kafka-tls", **keys)]

    def __enter__(self) -> "Secured":
        super().__enter__()
        admin = Admin({"bootstrap.servers": self.bootstrap})
        for mechanism in (SaslMechanism.SCRAM_SHA_256, SaslMechanism.SCRAM_SHA_512):
            Users(admin, mechanism).create(ROOT, ROOT_PASSWORD)
        Users(admin).create(TENANT, TENANT_PASSWORD)
        return self


def _with_listeners(text: str) -> str:
    """server.properties with three listeners more."""
    properties = dict(line.split("=", 1) for line in text.splitlines() if line)
    protocols = {"tls": "SSL", "mutual": "SSL", "sasl": "SASL_SSL"}
    for name, port in PORTS.items():
        properties["listeners"] += f",{name.upper()}://:{port}"
        properties["advertised.listeners"] += f",{name.upper()}://kafka:{port}"
        properties["listener.security.protocol.map"] += f",{name.upper()}:{protocols[name]}"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    plain = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{ROOT}="{ROOT_PASSWORD}";'
    properties |= {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": f"{_FOLDER}/broker.pem",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": f"{_FOLDER}/trusted.pem",
        "listener.name.mutual.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl.plain.sasl.jaas.config": plain,
        "listener.name.sasl.scram-sha-256.sasl.jaas.config": scram,
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": scram,
        "connections.max.reauth.ms": str(REAUTHENTICATE_MS),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{ROOT};User:CN={CLIENT}",
    }
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def secret(name: str, **keys: str) -> dict:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": keys}


class Guarded(Installed):
    """The sample's Pipeline on a secured Kafka: its Secrets, how its pods are, and what it stored."""

    surroundings: Secured

    def __init__(self, surroundings: Secured) -> None:
        super().__init__(surroundings)
        self.authority = surroundings.authority

    def secret(self, name: str, **keys: str) -> None:
        """Create it, or change the keys that are named."""
        kube.apply(json.dumps(secret(name, **keys)), self.namespace)

    def secured(self, bootstrap: str, *, devices: int = 100, per_second: int = 500, **kafka: Any) -> dict:
        """The sample with that many readings per second, on a listener and with these fields of spec.kafka."""
        document = self.document()
        document["spec"]["kafka"] = {
            "bootstrapServers": bootstrap,
            "tls": {"caSecretRef": {"name": "kafka-ca"}},
            **kafka,
        }
        simulator = {"devices": devices, "eventsPerSecond": per_second}
        document["spec"]["producers"][0]["source"] = {"simulator": simulator}
        return document

    def managed(self, **load: int) -> dict:
        """With users that the operator makes."""
        return self.secured(SASL, sasl={"users": "Managed"}, adminSecretRef={"name": "kafka-admin"}, **load)

    def stop_devices(self, document: dict) -> None:
        """Let the devices send no more, and wait until all that they sent is stored."""
        spec = document["spec"]
        self.apply(document | {"spec": spec | {"producers": []}})
        kube.kubectl("wait", "--for=delete", f"pod/{NAME}-devices-0", "--timeout=90s", namespace=self.namespace)
        self.until_stored(len(self.readings()), deadline_s=180)

    # -- pods -----------------------------------------------------------------------------------------------------

    def pods(self, stage: str | None = None) -> list[dict]:
        selector = f"forebay.dev/pipeline={NAME}" + (f",forebay.dev/stage={stage}" if stage else "")
        found = kube.get("pods", "--selector", selector, namespace=self.namespace)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod_name(self, stage: str) -> str:
        (found,) = self.pods(stage)
        return found["metadata"]["name"]

    def containers(self) -> dict[str, int]:
        """How often each pod's container was restarted, by the pod's uid: the same again if no process has ended."""
        return {pod["metadata"]["uid"]: restarts(pod) for pod in self.pods()}

    def written(self, stage: str) -> dict[str, str]:
        """What the Secret of a stage's managed user holds."""
        text = self.kubectl("get", "secret", f"{NAME}-{stage}-kafka-user", "-o", "json")
        return {key: base64.b64decode(value).decode() for key, value in json.loads(text)["data"].items()}

    def exported(self, stage: str, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample of a metric."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod_name(stage)}:8080/proxy/metrics"
        families = text_string_to_metric_families(kube.kubectl("get", "--raw", path))
        return [
            (sample.labels, sample.value) for family in families for sample in family.samples if sample.name == name
        ]

    @contextmanager
    def pauses(self) -> Iterator[dict[str, float]]:
        """The longest time in which each stage put out nothing, in seconds; filled in when it is left."""
        found: dict[str, float] = {}
        with ExitStack() as stack:
            watched = {}
            for stage in STAGES:
                forward = stack.enter_context(Forward(self.namespace, f"pod/{self.pod_name(stage)}", 8080))
                address = f"http://127.0.0.1:{forward.port}/metrics"
                watched[stage] = stack.enter_context(Pauses(lambda address=address: records_out(address)))
            yield found
            found |= {stage: pauses.end() for stage, pauses in watched.items()}

    # -- what was done --------------------------------------------------------------------------------------------

    def readings(self) -> list[tuple[bytes, bytes]]:
        """What the devices sent, in order within a device."""
        raw = topics.read(self.bootstrap, self.raw, deadline_s=240)
        return [(each.key(), each.value()) for each in raw]

    def rows(self) -> list[tuple[str, int, float]]:
        return self.surroundings.sql(f"SELECT device_id, timestamp, avg_temperature_c FROM {self.table}")


def records_out(address: str) -> float:
    """What a replica has put out, by its metrics; 0 where they cannot be read. Asked often, so read as text."""
    try:
        with urllib.request.urlopen(address, timeout=2) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("forebay_records_out_total{"))

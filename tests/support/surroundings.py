"""The development Kafka and PostgreSQL (manifests/dev) in a namespace that the tests of one run share."""

import os
from contextlib import ExitStack

import kube
import psycopg
import topics
import yaml
from kube import Forward

FOLDER = "FOREBAY_SURROUNDINGS"
"""Names the kustomization to apply: manifests/dev by default, manifests/dev-local where no public image can be pulled."""


class Surroundings:
    """Use it as a context manager: it is up inside, and gone with all data afterwards."""

    def __init__(self) -> None:
        self.namespace = topics.unique("e2e-surroundings")
        self._stack = ExitStack()
        self._kafka_port = kube.free_port()

    def _start(self) -> None:
        folder = os.environ.get(FOLDER, "manifests/dev")
        text = kube.kubectl("kustomize", folder)
        # Kafka sends its clients to the address that it advertises; port 9094 of this machine may be somebody else's.
        text = text.replace("FORWARDED://localhost:9094", f"FORWARDED://localhost:{self._kafka_port}")
        self._objects = self.changed([document for document in yaml.safe_load_all(text) if document])
        kube.create_namespace(self.namespace)
        kube.apply(yaml.safe_dump_all(self._objects), self.namespace)
        for name in ("kafka", "postgres"):
            kube.kubectl(
                "rollout", "status", f"statefulset/{name}", "--timeout", "150s", namespace=self.namespace, timeout_s=180
            )
        self._kafka = self._stack.enter_context(Forward(self.namespace, "service/kafka", 9094, self._kafka_port))
        self._postgres = self._stack.enter_context(Forward(self.namespace, "service/postgres", 5432))

    def changed(self, objects: list[dict]) -> list[dict]:
        """What is applied instead of these."""
        return objects

    def reconnect(self) -> None:
        """A pod was replaced, and the new one is ready: clients that run go on at the same addresses."""
        for forward in (self._kafka, self._postgres):
            forward.renew()

    @property
    def bootstrap(self) -> str:
        """Where this machine reaches Kafka."""
        return f"localhost:{self._kafka.port}"

    def sql(self, statement: str) -> list[tuple]:
        """The rows of a query."""
        secret = self.secret["stringData"]
        with psycopg.connect(
            host="127.0.0.1",
            port=self._postgres.port,
            **{key: secret[key] for key in ("dbname", "user", "password")},
            sslmode="disable",
            connect_timeout=10,
        ) as connection:
            return connection.execute(statement).fetchall()

    @property
    def secret(self) -> dict:
        """The Secret by which a sink reaches PostgreSQL, to be applied in the sink's namespace."""
        return next(found for found in self._objects if found["kind"] == "Secret")

    def aliases(self) -> str:
        """Services by which another namespace reaches them under the same names, `kafka` and `postgres`."""
        return yaml.safe_dump_all(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name},
                "spec": {"type": "ExternalName", "externalName": f"{name}.{self.namespace}.svc.cluster.local"},
            }
            for name in ("kafka", "postgres")
        )

    def __enter__(self) -> "Surroundings":
        try:
            self._start()
        except BaseException:
            print(kube.explain(self.namespace))
            self.__exit__()
            raise
        return self

    def __exit__(self, *_rest) -> None:
        self._stack.close()
        kube.delete_namespace(self.namespace)

"""The CustomResourceDefinition on a real API server: accepted, its rules enforced, and affordable at the largest size.

Needs nothing but the API server: no operator, no pods.
"""

import copy
import json
import subprocess
import uuid

import pytest

import charts
from forebay.pipeline import schema

pytestmark = pytest.mark.usefixtures("definition")

RAW = {"name": "raw", "partitions": 4}
ENRICHED = {"name": "enriched", "partitions": 4}
DEVICES = {"name": "devices", "to": "raw", "key": {"field": "device_id"}, "source": {"simulator": {}}}
AVERAGE = {"name": "average", "movingAverage": {"field": "temperature_c", "output": "avg"}}
ENRICH = {"name": "enrich", "from": "raw", "to": "enriched", "transforms": [AVERAGE]}
STORE = {"name": "store", "from": "enriched", "destination": {"duckdb": {"table": "readings"}}}
SPEC = {
    "kafka": {"bootstrapServers": "kafka:9092"},
    "topics": [RAW, ENRICHED],
    "producers": [DEVICES],
    "processors": [ENRICH],
    "sinks": [STORE],
}


def kubectl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess:
    command = [charts.tool("kubectl"), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def namespace():
    name = f"op-crd-{uuid.uuid4().hex[:6]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "pipelines", "--all", "--namespace", name)
    kubectl("delete", "namespace", name, "--wait=false")


def pipeline(name: str = "sensors", **changes) -> str:
    spec = copy.deepcopy(SPEC | changes)
    return json.dumps({
        "apiVersion": "forebay.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec,
    })  # fmt: skip


def dry_run(text: str, namespace: str) -> subprocess.CompletedProcess:
    return kubectl("create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", stdin=text)


def producer(**changes) -> dict:
    return {"producers": [DEVICES | changes]}


def processor(**changes) -> dict:
    return {"processors": [ENRICH | changes]}


def sink(**changes) -> dict:
    return {"sinks": [STORE | changes]}


def transform(**changes) -> dict:
    return processor(transforms=[{"name": "some", **changes}])


def filtering(**condition) -> dict:
    return transform(filter={"where": [{"field": "temperature_c", **condition}]})


def mapping(**field) -> dict:
    return producer(source={"file": {"path": "x.csv", "fields": [{"name": "a", **field}]}})


LONG = "a" * 30
MANAGED = SPEC["kafka"] | {"tls": {}, "sasl": {"users": "Managed"}, "adminSecretRef": {"name": "x"}}
STORAGE = {"storage": {"size": "1Gi"}}

WRONG = {
    "no stage": ({"producers": [], "processors": [], "sinks": []}, "there is a stage: add an entry"),
    "no topic": ({"topics": []}, "spec.topics"),
    "unknown from": (processor(**{"from": "other"}), "every `from` in processors names an entry of topics"),
    "unknown to": (processor(to="other"), "every `to` in processors names an entry of topics"),
    "unknown producer to": (producer(to="other"), "every `to` in producers names an entry of topics"),
    "unknown sink from": (sink(**{"from": "other"}), "every `from` in sinks names an entry of topics"),
    "unpartitioned": ({"topics": [{"name": "raw"}, ENRICHED]}, "a Managed topic has partitions: add partitions"),
    "min above max": (processor(autoscaling={"minReplicas": 3, "maxReplicas": 2}), "minReplicas is at most maxReplicas"),
    "max above partitions": (processor(autoscaling={"maxReplicas": 5}), "at most the partitions of the input"),
    "no replicas": (processor(autoscaling={"minReplicas": 0}), "greater than or equal to 1"),
    "two of a name": (sink(name="enrich"), "names of stages are unique, and processors and sinks share one"),
    "a producer's name": (sink(name="devices"), "names of stages are unique, and producers and sinks share one"),
    "two topics of a name": ({"topics": [RAW, RAW]}, "Duplicate value"),
    "two sources": (producer(source={"simulator": {}, "file": {"path": "x"}}), "set exactly one of simulator, file"),
    "no source": (producer(source={}), "set exactly one of simulator, file"),
    "two transforms": (transform(**{k: AVERAGE[k] for k in ["movingAverage"]}, python={"entrypoint": "a:b"}),
                       "set exactly one of movingAverage, filter, python"),
    "no destination": (sink(destination={}), "set exactly one of duckdb, postgres, stdout"),
    "two files": (producer(source={"file": {"path": "d/x"}}, pod={"files": {"claimRef": {"name": "a"},
                  "configMapRef": {"name": "b"}}}), "set exactly one of configMapRef, claimRef"),
    "sasl in the clear": ({"kafka": SPEC["kafka"] | {"sasl": {"secretRef": {"name": "x"}}}}, "add tls: {}"),
    "admin without sasl": ({"kafka": SPEC["kafka"] | {"adminSecretRef": {"name": "x"}}}, "needs a mechanism: add sasl"),
    "two logins": ({"kafka": MANAGED | {"sasl": {"users": "Managed", "secretRef": {"name": "x"}}}}, "set exactly one of users"),
    "users for PLAIN": ({"kafka": MANAGED | {"sasl": {"users": "Managed", "mechanism": "PLAIN"}}}, "no way to make users"),
    "users without an administrator": ({"kafka": SPEC["kafka"] | {"tls": {}, "sasl": {"users": "Managed"}}},
                                       "made by an administrator: add adminSecretRef"),
    "age of another's user": ({"kafka": MANAGED | {"sasl": {"secretRef": {"name": "x"}, "rotateEvery": "30d"}}},
                              "remove rotateEvery, or use users: Managed"),
    "own output": (processor(to="raw"), "a processor writes to another topic than it reads"),
    "duckdb twice": (sink(autoscaling={"maxReplicas": 2}), "one process alone can write a DuckDB file"),
    "a file for two": (producer(source={"file": {"path": "x"}}, replicas=2), "a file has one reader"),
    "storage of a producer": (producer(pod=STORAGE), "producers keep nothing on disk"),
    "storage of a stdout sink": (sink(destination={"stdout": {}}, pod=STORAGE), "keep nothing on disk"),
    "files of a processor": (processor(pod={"files": {"claimRef": {"name": "x"}}}), "processors read no file"),
    "files of a sink": (sink(pod={"files": {"claimRef": {"name": "x"}}}), "sinks read no file"),
    "files of a simulator": (producer(pod={"files": {"claimRef": {"name": "x"}}}), "pod.files is for file sources"),
    "linger beyond time-out": (producer(delivery={"lingerMs": 2_000, "timeoutMs": 1_000}), "lingerMs is less than"),
    "average of itself": (transform(movingAverage={"field": "a", "output": "a"}), "rename output"),
    "a test of nothing": (filtering(), "a condition tests something: set exists, min, max or oneOf"),
    "min above max of a test": (filtering(min=2, max=1), "min is at most max: exchange them"),
    "column and constant": (mapping(column="a", constant="b"), "a column or a constant, not both: remove one"),
    "format of a number": (mapping(type="number", format="%Y"), "a format is for type timestamp"),
    "a long name": (processor(name=LONG), "share 52 characters: shorten a name in processors"),
    "a bad name": (producer(name="Devices"), "should match"),
    "a bad address": ({"kafka": {"bootstrapServers": "kafka"}}, "should match"),
    "an unknown field": ({"topcis": []}, 'unknown field "spec.topcis"'),
    "a word for a number": (producer(replicas="two"), "replicas"),
    "an unknown choice": (processor(startFrom="Now"), 'supported values: "Earliest", "Latest"'),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_specs_are_refused_with_the_cure(case, namespace):
    changes, message = WRONG[case]
    name = "a-pipeline-with-a-long-name" if case == "a long name" else "sensors"
    refused = dry_run(pipeline(name, **changes), namespace)

    assert refused.returncode != 0
    assert message in refused.stderr


def test_the_right_one_is_taken(namespace):
    assert dry_run(pipeline(), namespace).returncode == 0


def test_all_that_a_pod_can_be_given_is_kept(namespace):
    pod = {
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 5}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    }
    (sink,) = json.loads(pipeline())["spec"]["sinks"]
    created = kubectl("create", "-n", namespace, "-f", "-", stdin=pipeline("placed", sinks=[sink | {"pod": pod}]))
    assert created.returncode == 0, created.stderr
    found = json.loads(kubectl("get", "pipeline", "placed", "-n", namespace, "-o", "json").stdout)

    assert found["spec"]["sinks"][0]["pod"] == pod


def test_every_rule_has_a_case():
    """A rule whose message no case expects could say anything."""
    expected = [message for _, message in WRONG.values()] + [message for *_, message in CHANGES.values()]

    def messages(node):
        yield from (rule["message"] for rule in node.get("x-kubernetes-validations", ()))
        for child in (*node.get("properties", {}).values(), node.get("items"), node.get("additionalProperties")):
            if isinstance(child, dict):
                yield from messages(child)

    root = schema.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    untested = {said for said in messages(root) if not any(part in said for part in expected)}
    kinds_of_one_rule = ("shorten a name in", "producers and processors share one")
    assert {said for said in untested if not any(kind in said for kind in kinds_of_one_rule)} == set()


CHANGES = {
    "fewer partitions": ({}, {"topics": [RAW | {"partitions": 3}, ENRICHED]}, "partitions only grow"),
    "storage added": ({}, processor(pod=STORAGE), "pod.storage of processors cannot be changed"),
    "storage removed": (processor(pod=STORAGE), {}, "pod.storage of processors cannot be changed"),
    "storage grown": (processor(pod=STORAGE), processor(pod={"storage": {"size": "2Gi"}}), "of processors cannot be"),
    "storage of a sink": ({}, sink(pod=STORAGE), "pod.storage of sinks cannot be changed"),
    "another kind of state": ({}, processor(transforms=[{"name": "average", "python": {"entrypoint": "a:b"}}]),
                              "another kind of transform cannot read the state"),
    "another field": ({}, processor(transforms=[AVERAGE | {"movingAverage": {"field": "humidity_pct", "output": "avg"}}]),
                      "raise stateVersion to start with empty state"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_changes_that_cannot_be_followed_are_refused(case, namespace):
    before, after, message = CHANGES[case]
    name = f"change-{list(CHANGES).index(case)}"
    assert kubectl("create", "-n", namespace, "-f", "-", stdin=pipeline(name, **before)).returncode == 0
    refused = kubectl("replace", "-n", namespace, "-f", "-", stdin=pipeline(name, **after))

    assert refused.returncode != 0
    assert message in refused.stderr


@pytest.mark.parametrize(
    "after",
    [
        {"topics": [RAW | {"partitions": 8}, ENRICHED]},
        processor(
            transforms=[AVERAGE | {"stateVersion": 2, "movingAverage": {"field": "humidity_pct", "output": "avg"}}]
        ),
        processor(transforms=[AVERAGE | {"movingAverage": {"field": "temperature_c", "output": "avg", "window": 20}}]),
        processor(name="renamed", pod=STORAGE),
        {"sinks": []},
    ],
)
def test_changes_that_can_be_followed_are_taken(after, namespace):
    name = f"taken-{uuid.uuid4().hex[:6]}"
    assert kubectl("create", "-n", namespace, "-f", "-", stdin=pipeline(name)).returncode == 0
    taken = kubectl("replace", "-n", namespace, "-f", "-", stdin=pipeline(name, **after))

    assert taken.returncode == 0, taken.stderr


def test_the_largest_pipeline_is_affordable(namespace):
    """Every list as long as the schema allows and names as long as they may be: created, then changed."""

    def named(kind: str, number: int, length: int) -> str:
        return f"{kind}{number:03}".ljust(length, "x")

    topics = [{"name": named("t", n, 200), "partitions": 10_000, "config": {"retention.ms": "1"}} for n in range(64)]
    names = [topic["name"] for topic in topics]
    transforms = [{"name": named("s", n, 40), "movingAverage": {"field": "a", "output": f"o{n}"}} for n in range(16)]
    spec = {
        "topics": topics,
        "producers": [DEVICES | {"name": named("p", n, 20), "to": names[n]} for n in range(32)],
        "processors": [
            {"name": named("q", n, 20), "from": names[n], "to": names[32 + n], "transforms": transforms,
             "autoscaling": {"maxReplicas": 100}}
            for n in range(32)
        ],
        "sinks": [
            {"name": named("r", n, 20), "from": names[32 + n], "destination": {"stdout": {}}} for n in range(32)
        ],
    }  # fmt: skip
    created = kubectl("create", "-n", namespace, "-f", "-", stdin=pipeline("large", **spec))
    for topic in topics:
        topic["config"] = {"retention.ms": "2"}
    replaced = kubectl("replace", "-n", namespace, "-f", "-", stdin=pipeline("large", **spec))

    assert (created.returncode, created.stderr) == (0, "")
    assert (replaced.returncode, replaced.stderr) == (0, "")


def test_what_the_operator_writes_is_kept(namespace):
    """Nothing of a status is pruned."""
    assert kubectl("create", "-n", namespace, "-f", "-", stdin=pipeline("status")).returncode == 0
    status = {
        "observedGeneration": 1, "replicas": "3/3", "lag": "1.2k", "behind": "3s", "rate": "200/s", "topics": "6/6",
        "why": "Running", "upgradedAt": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1, "reason": "Running", "message": "x",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "stages": [{"name": "enrich", "kind": "processor", "replicas": 1, "readyReplicas": 1, "lag": "1", "behind": "2s",
                    "reason": "KeepingUp", "message": "x", "scaling": {"changedAt": 1.0, "capacity": {"any": "thing"}}}],
        "managedTopics": [{"name": "raw", "id": "abc"}],
    }  # fmt: skip
    patch = json.dumps({"status": status})
    patched = kubectl(
        "patch", "pipeline", "status", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch
    )
    assert patched.returncode == 0, patched.stderr
    shown = json.loads(kubectl("get", "pipeline", "status", "-n", namespace, "-o", "json").stdout)

    assert shown["status"] == status
    row = kubectl("get", "pl", "status", "-n", namespace).stdout.splitlines()[1].split()
    assert row[:7] == ["status", "True", "3/3", "1.2k", "3s", "200/s", "Running"]

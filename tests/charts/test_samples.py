"""The values files that ship: the same Pipelines as the samples, on what manifests/dev provides."""

import shutil
import subprocess

import pytest
import yaml

import charts

SAMPLES = charts.ROOT / "manifests/samples"
DEV = charts.ROOT / "manifests/dev"


def spec(path: str) -> dict:
    return yaml.safe_load((charts.ROOT / path).read_text())["spec"]


def test_the_development_values_are_the_sample_for_a_cluster():
    assert spec("manifests/dev/values.yaml") == spec("manifests/samples/01-sensors/cluster.yaml")


def test_the_sensors_values_differ_in_kafka_and_its_copies_alone():
    values, sample = spec("manifests/samples/01-sensors/values.yaml"), spec("manifests/samples/01-sensors/cluster.yaml")

    assert values.pop("kafka").keys() == {"bootstrapServers", "tls", "sasl", "adminSecretRef"}
    assert sample.pop("kafka") == {"bootstrapServers": "kafka:9092"}
    for topic in values["topics"]:
        assert topic.pop("replicationFactor") == 3
    for topic in sample["topics"]:
        assert topic.pop("replicationFactor") == 1
    assert values == sample


def test_the_weather_values_add_what_pods_need():
    values, sample = (spec(f"manifests/samples/02-weather/{name}") for name in ("values.yaml", "pipeline.yaml"))

    for stage in (*values["producers"], *values["sinks"]):
        assert stage.pop("pod")
    for topic in values["topics"]:
        assert topic.pop("replicationFactor") == 1
    assert values == sample


@pytest.mark.parametrize(
    "path",
    ["manifests/dev/values.yaml", *(f"manifests/samples/{name}/values.yaml" for name in ("01-sensors", "02-weather"))],
)
def test_shipped_values_render_what_kubernetes_takes(path, own_schemas):
    rendered = charts.template(yaml.safe_load((charts.ROOT / path).read_text()))

    assert rendered.complaint == ""
    assert charts.conform(rendered.text, own_schemas) == ""


def test_kafka_and_postgres_for_development_are_what_kubernetes_takes(own_schemas):
    text = "\n---\n".join((DEV / name).read_text() for name in ("kafka.yaml", "postgres.yaml"))

    assert charts.conform(text, own_schemas) == ""


def test_the_development_secret_is_the_one_that_the_sink_reads():
    documents = list(yaml.safe_load_all((DEV / "postgres.yaml").read_text()))
    (secret,) = (found for found in documents if found["kind"] == "Secret")
    (service,) = (found for found in documents if found["kind"] == "Service")
    (sink,) = spec("manifests/dev/values.yaml")["sinks"]

    assert secret["metadata"]["name"] == sink["destination"]["postgres"]["secretRef"]["name"]
    assert set(secret["stringData"]) == {"host", "port", "dbname", "user", "password", "sslmode"}
    assert secret["stringData"]["host"] == service["metadata"]["name"]


def test_development_pods_are_restricted():
    for name in ("kafka.yaml", "postgres.yaml"):
        (workload,) = (
            found for found in yaml.safe_load_all((DEV / name).read_text()) if found["kind"] == "StatefulSet"
        )
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl's kustomize")
def test_local_images_take_the_place_of_the_public_ones():
    done = subprocess.run(
        ["kubectl", "kustomize", "manifests/dev-local"], cwd=charts.ROOT, capture_output=True, text=True, check=True
    )
    images = [
        found["spec"]["template"]["spec"]["containers"][0]["image"]
        for found in yaml.safe_load_all(done.stdout)
        if found["kind"] == "StatefulSet"
    ]

    assert images == ["localhost/forebay-kafka:4.1.1", "localhost/forebay-postgres:15"]

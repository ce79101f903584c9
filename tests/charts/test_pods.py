"""What reaches the pods: the environment as the services' own settings read it, the Pipeline file, Secrets, files."""

from pathlib import Path

import pytest

import charts
from forebay.pipeline import load, names
from forebay.pipeline.spec import Pipeline
from forebay.runtime.settings import ReplicaSettings

RESTRICTED_VOLUMES = {"configMap", "secret", "projected", "emptyDir", "persistentVolumeClaim"}


def pipeline_of(rendered: charts.Rendered) -> Pipeline:
    return load.parse(rendered.of("ConfigMap")["sensors"]["data"]["pipeline.yaml"], "pipeline.yaml")


def environment(pod: dict) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}


def mounts(pod: dict) -> dict[str, dict]:
    """Volumes by the path where they are mounted."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}


def test_the_mounted_file_is_the_pipeline(values):
    pipeline = pipeline_of(charts.template(values))
    asked = Pipeline.model_validate(
        {"metadata": {"name": "sensors", "namespace": charts.NAMESPACE}, "spec": values["spec"]}
    )

    assert pipeline == asked


@pytest.mark.parametrize(
    "text", ["yes", "on", "y", "N", "null", "~", "", "1_000", "0x1f", "0o17", "017", "1e3", ".5", "1:30", "2024-01-01",
             "=", "a: b", "# no", " x ", "é\u2028z", '"', "{{ .Values }}", "<&>", "0b1", ".inf", "+1", "- a", "'", "\\n"]
)  # fmt: skip
def test_texts_arrive_as_they_are(values, text):
    values["spec"]["processors"][0]["transforms"].append(
        {"name": "some", "filter": {"where": [{"field": "device_id", "oneOf": [text]}]}}
    )
    pipeline = pipeline_of(charts.template(values))

    assert pipeline.spec.processors[0].transforms[1].filter.where[0].one_of == (text,)


@pytest.mark.parametrize("number", [10_000_000, 1, 2**31 - 1])
def test_whole_numbers_stay_whole(values, number):
    values["spec"]["producers"][0]["source"]["simulator"] = {"seed": number}

    assert pipeline_of(charts.template(values)).spec.producers[0].source.simulator.seed == number


def test_the_services_settings_take_the_environment(values, monkeypatch):
    rendered = charts.template(values)
    for name, ordinal in (("devices", 7), ("enrich", 7), ("warehouse", 0)):
        pod = rendered.pods()[f"sensors-{name}"]
        with monkeypatch.context() as variables:
            for variable, value in environment(pod).items():
                variables.setenv(variable, value)
            variables.setenv("HOSTNAME", f"sensors-{name}-7")
            settings = ReplicaSettings()
            found = (settings.stage, settings.replica_ordinal)

        assert {variable.removeprefix("FOREBAY_").lower() for variable in environment(pod)} <= set(
            ReplicaSettings.model_fields
        )
        assert found == (name, ordinal)
        assert settings.http_port == pod["containers"][0]["ports"][0]["containerPort"]
        folder = mounts(pod)[str(settings.pipeline.parent)]
        assert folder["configMap"]["name"] == "sensors"
        assert settings.pipeline.name in rendered.of("ConfigMap")["sensors"]["data"]


def test_secrets_are_folders_where_the_services_look(values):
    rendered = charts.template(values)
    needed = {
        "devices": {"kafka-ca", "kafka-user"},
        "enrich": {"kafka-ca", "kafka-user"},
        "warehouse": {"kafka-ca", "kafka-user", "warehouse-db"},
    }
    for name, secrets in needed.items():
        pod = rendered.pods()[f"sensors-{name}"]
        root = Path(environment(pod)["FOREBAY_SECRETS"])
        mounted = {path: volume["secret"] for path, volume in mounts(pod).items() if "secret" in volume}

        assert set(mounted) == {str(root / secret) for secret in secrets}
        assert all(volume["secretName"] == Path(path).name for path, volume in mounted.items())
        assert all(volume["optional"] for volume in mounted.values())


def test_a_login_by_certificate_is_mounted_too(values):
    values["spec"]["kafka"] = {
        "bootstrapServers": "kafka:9093",
        "tls": {"clientCertificateSecretRef": {"name": "enrich.client"}},
    }
    pod = charts.template(values).pods()["sensors-enrich"]

    assert mounts(pod)["/etc/forebay/secrets/enrich.client"]["secret"]["secretName"] == "enrich.client"


def test_the_managed_user_of_a_stage_is_mounted_in_its_pods_alone(values):
    values["spec"]["kafka"]["sasl"] = {"users": "Managed"}
    values["managedBy"] = "forebay"
    pipeline = Pipeline.model_validate({"metadata": {"name": "sensors"}, "spec": values["spec"]})
    rendered = charts.template(values)
    for stage in pipeline.spec.stages:
        pod = rendered.pods()[names.workload(pipeline, stage)]
        users = {volume["secret"]["secretName"] for volume in mounts(pod).values() if "secret" in volume}

        assert {name for name in users if name.endswith("-kafka-user")} == {names.login_secret(pipeline, stage)}
        assert "kafka-admin" not in users


def test_the_age_of_users_restarts_no_pod(values):
    values["spec"]["kafka"]["sasl"] = {"users": "Managed"}
    values["managedBy"] = "forebay"
    before = charts.template(values).of("StatefulSet")
    values["spec"]["kafka"]["sasl"]["rotateEvery"] = "30d"
    after = charts.template(values).of("StatefulSet")

    assert before
    assert before == after


def test_nothing_secret_is_in_environment_or_arguments(values):
    for pod in charts.template(values | {"topics": {"job": True}}).pods().values():
        container = pod["containers"][0]
        assert all("valueFrom" not in variable for variable in container.get("env", ()))
        assert "envFrom" not in container
        assert not any("password" in str(value).lower() for value in container.get("env", ()))


def test_every_pod_is_restricted(values):
    pods = charts.template(values | {"topics": {"job": True}}).pods()

    assert set(pods) == {"sensors-devices", "sensors-enrich", "sensors-warehouse", "sensors-topics"}
    for pod in pods.values():
        (container,) = pod["containers"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= RESTRICTED_VOLUMES
        assert container["resources"]["limits"]["memory"]
        assert all(port.get("hostPort") is None for port in container.get("ports", ()))


def test_probes_ask_the_loop_and_never_kafka(values):
    container = charts.template(values).pods()["sensors-enrich"]["containers"][0]

    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert container["startupProbe"]["httpGet"] == {"path": "/livez", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}


def test_memory_is_reckoned_from_what_a_stage_may_hold(values):
    def memory() -> str:
        resources = charts.template(values).pods()["sensors-enrich"]["containers"][0]["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        return resources["limits"]["memory"]

    processor = values["spec"]["processors"][0]
    assert memory() == "768Mi"
    processor["stateCacheMebibytes"] = 1000
    assert memory() == "1512Mi"
    processor["pod"] = {"resources": {"limits": {"memory": "3Gi"}}}
    assert memory() == "3Gi"


def test_what_a_stage_says_goes_before_the_defaults(values):
    values["podDefaults"] = {"nodeSelector": {"disk": "slow"}, "resources": {"processor": {"requests": {"cpu": "2"}}}}
    values["spec"]["processors"][0]["pod"] = {
        "image": "registry.example.com/team/enrich:7",
        "nodeSelector": {"disk": "fast"},
        "resources": {"requests": {"memory": "1Gi"}},
    }
    pods = charts.template(values).pods()
    enrich = pods["sensors-enrich"]

    assert enrich["nodeSelector"] == {"disk": "fast"}
    assert enrich["containers"][0]["image"] == "registry.example.com/team/enrich:7"
    assert enrich["containers"][0]["resources"]["requests"] == {"cpu": "2", "memory": "1Gi"}
    assert "memory" not in enrich["containers"][0]["resources"]["limits"]
    assert pods["sensors-devices"]["nodeSelector"] == {"disk": "slow"}


def test_images_have_a_common_registry_and_tag_or_whole_names(values):
    values["images"] = {"registry": "registry.example.com/team", "tag": "7", "sink": "elsewhere/sink@sha256:00"}
    pods = charts.template(values).pods()
    images = {name: pod["containers"][0]["image"] for name, pod in pods.items()}

    assert images == {
        "sensors-devices": "registry.example.com/team/forebay-producer:7",
        "sensors-enrich": "registry.example.com/team/forebay-processor:7",
        "sensors-warehouse": "elsewhere/sink@sha256:00",
    }


def file_source(values: dict, path: str, files: dict) -> dict:
    values["spec"]["producers"][0] = {
        "name": "devices",
        "to": "raw_sensor_events",
        "key": {"field": "device_id"},
        "source": {"file": {"path": path}},
        "pod": {"files": files},
    }
    return values


def test_a_file_from_a_config_map_lies_where_its_path_says(values):
    file_source(values, "./data/readings.ndjson", {"configMapRef": {"name": "recordings"}})
    pod = charts.template(values).pods()["sensors-devices"]
    own, files = mounts(pod)["/etc/forebay/pipeline"]["projected"]["sources"]

    assert own["configMap"]["name"] == "sensors"
    assert files["configMap"] == {
        "name": "recordings",
        "items": [{"key": "readings.ndjson", "path": "data/readings.ndjson"}],
    }


@pytest.mark.parametrize(
    ("path", "folder"), [("data/x.csv", "/etc/forebay/pipeline/data"), ("/srv/recordings/x.csv", "/srv/recordings")]
)
def test_a_claim_is_mounted_as_the_paths_folder(values, path, folder):
    file_source(values, path, {"claimRef": {"name": "recordings"}})
    pod = charts.template(values).pods()["sensors-devices"]

    assert mounts(pod)[folder]["persistentVolumeClaim"] == {"claimName": "recordings", "readOnly": True}

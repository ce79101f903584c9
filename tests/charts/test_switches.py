"""Every switch of the chart: what it renders when on, and that it renders nothing when off."""

import pytest
import yaml

import charts
from forebay.planning.workloads import Values

PIPELINES = "forebay.dev/v1alpha1/Pipeline"
POD_MONITORS = "monitoring.coreos.com/v1/PodMonitor"


def template(values: dict, *arguments: str, apis: tuple[str, ...] = ()) -> charts.Rendered:
    rendered = charts.template(values, *arguments, api_versions=apis)
    assert rendered.complaint == ""
    return rendered


def test_the_sample_passes_lint():
    done = charts.helm("lint", "--strict", "--kube-version", "1.34.4", str(charts.CHART), "-f", str(charts.SENSORS))

    assert done.returncode == 0, done.stdout + done.stderr


def test_values_yaml_says_the_defaults_of_the_models(values):
    written = yaml.safe_load((charts.CHART / "values.yaml").read_text())
    models = Values.model_validate({"spec": values["spec"]})

    assert Values.model_validate({"spec": values["spec"], **written}) == models
    assert {"spec", "global"} == set(models.model_dump(by_alias=True)) - set(written)


EVERYTHING = {
    "topics": {"job": True},
    "pipeline": {"create": True},
    "podMonitor": {"enabled": True},
    "networkPolicy": {"enabled": True, "brokers": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
}


@pytest.mark.parametrize("switches", [{}, EVERYTHING])
def test_what_is_rendered_is_what_kubernetes_takes(values, switches, own_schemas):
    values["spec"]["processors"][0]["pod"] = {
        "image": "registry.example.com/team/enrich@sha256:0123",
        "resources": {"requests": {"cpu": "1"}},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "storage": {"size": "10Gi", "storageClassName": "fast"},
    }
    rendered = template(values | switches, apis=(PIPELINES, POD_MONITORS))
    ours = [found for found in rendered.objects if found["kind"] != "PodMonitor"]  # its schema is not Kubernetes' own

    assert charts.conform(yaml.safe_dump_all(ours), own_schemas) == ""
    assert {"StatefulSet", "Deployment", "Service", "ConfigMap", "PodDisruptionBudget"} <= {
        found["kind"] for found in ours
    }


def test_objects_that_kubernetes_does_not_know_are_found(values, own_schemas):
    text = template(values).text.replace("serviceName:", "servceName:")

    assert "'servceName' not allowed" in charts.conform(text, own_schemas)


def test_stages_with_an_identity_or_a_disk_are_stateful_sets(values):
    values["spec"]["sinks"].append(
        {"name": "files", "from": "enriched_sensor_events", "destination": {"duckdb": {"table": "readings"}}}
    )
    rendered = template(values)

    assert set(rendered.of("StatefulSet")) == {"sensors-devices", "sensors-enrich", "sensors-files"}
    assert set(rendered.of("Deployment")) == {"sensors-warehouse"}
    for name in ("sensors-devices", "sensors-enrich", "sensors-warehouse", "sensors-files"):
        labels = rendered.of("Service")[name]["spec"]["selector"]
        assert labels == rendered.of("PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"]
        workload = {**rendered.of("StatefulSet"), **rendered.of("Deployment")}[name]
        assert labels == workload["spec"]["selector"]["matchLabels"]
        assert labels.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        assert rendered.of("Service")[name]["spec"]["clusterIP"] == "None"


def test_the_topics_job_applies_the_pipeline_before_anything_else(values):
    rendered = template(values | {"topics": {"job": True}})
    (job,) = rendered.of("Job").values()
    container = rendered.pods()["sensors-topics"]["containers"][0]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}

    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert container["command"][:2] == ["forebay", "apply"]
    assert f"{container['command'][4]}/kafka-admin" in mounted
    maps = rendered.of("ConfigMap")
    assert maps["sensors-topics"]["data"] == maps["sensors"]["data"]
    assert maps["sensors-topics"]["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "helm.sh/hook" not in maps["sensors"]["metadata"].get("annotations", {})


def test_without_the_topics_job_there_is_none(values):
    rendered = template(values)

    assert not rendered.of("Job")
    assert set(rendered.of("ConfigMap")) == {"sensors"}


def test_the_administrators_secret_reaches_the_topics_job_alone(values):
    rendered = template(values | {"topics": {"job": True}})
    holders = {
        name
        for name, pod in rendered.pods().items()
        for volume in pod["volumes"]
        if volume.get("secret", {}).get("secretName") == "kafka-admin"
    }

    assert holders == {"sensors-topics"}


def test_the_pipeline_object_says_that_its_workloads_are_external(values):
    rendered = template(values | {"pipeline": {"create": True}}, apis=(PIPELINES,))
    (pipeline,) = rendered.of("Pipeline").values()

    assert pipeline["metadata"]["name"] == "sensors"
    assert pipeline["spec"] == {**values["spec"], "workloads": "External"}


def test_without_pipeline_create_there_is_no_pipeline(values):
    assert not template(values, apis=(PIPELINES,)).of("Pipeline")


def test_pipeline_create_needs_the_definition(values):
    rendered = charts.template(values | {"pipeline": {"create": True}})

    assert rendered.returncode != 0
    assert "does not know Pipelines: run `forebay schema | kubectl apply -f -` first" in rendered.complaint


def test_the_pod_monitor_scrapes_every_stage(values):
    rendered = template(
        values | {"podMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}}},
        apis=(POD_MONITORS,),
    )
    (monitor,) = rendered.of("PodMonitor").values()

    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "http", "path": "/metrics", "interval": "30s"}]
    for workload in (*rendered.of("StatefulSet").values(), *rendered.of("Deployment").values()):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert [port["name"] for port in workload["spec"]["template"]["spec"]["containers"][0]["ports"]] == ["http"]


def test_without_the_switch_there_is_no_pod_monitor(values):
    assert not template(values, apis=(POD_MONITORS,)).of("PodMonitor")


def test_the_pod_monitor_needs_the_prometheus_operator(values):
    rendered = charts.template(values | {"podMonitor": {"enabled": True}})

    assert rendered.returncode != 0
    assert "does not know PodMonitors: install the Prometheus Operator" in rendered.complaint


def test_network_policies_open_kafka_and_the_sinks_database(values):
    brokers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kafka"}}}]
    switched = {"networkPolicy": {"enabled": True, "brokers": brokers, "brokerPorts": [9094]}}
    policies = template(values | switched).of("NetworkPolicy")

    assert set(policies) == {"sensors-devices", "sensors-enrich", "sensors-warehouse"}
    egress = {name: policy["spec"]["egress"] for name, policy in policies.items()}
    assert [[port["port"] for port in rule["ports"]] for rule in egress["sensors-enrich"]] == [[53, 53], [9094, 9093]]
    assert egress["sensors-enrich"][1]["to"] == brokers
    assert egress["sensors-warehouse"][2] == {"ports": [{"port": 5432, "protocol": "TCP"}]}
    for policy in policies.values():
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        assert policy["spec"]["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]


def test_where_scrapers_are_named_the_operator_may_ask_which_user_is_in_use(values):
    scrapers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    values["networkPolicy"] = {"enabled": True, "scrapers": scrapers}
    operator = {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "forebay-operator"}},
    }
    for users, peers in ((None, scrapers), ("Managed", [*scrapers, operator])):
        if users is not None:
            sasl = {"mechanism": "SCRAM-SHA-512", "users": users}
            values["spec"]["kafka"] |= {"tls": {}, "sasl": sasl, "adminSecretRef": {"name": "admin"}}
            values["managedBy"] = "forebay"
        for policy in template(values).of("NetworkPolicy").values():
            assert [rule["from"] for rule in policy["spec"]["ingress"]] == [peers]


def test_without_the_switch_there_is_no_network_policy(values):
    assert not template(values).of("NetworkPolicy")


def test_replicas_start_at_the_minimum_and_are_left_out_for_the_scaler(values):
    values["spec"]["producers"][0]["replicas"] = 2
    values["spec"]["processors"][0]["autoscaling"] = {"minReplicas": 2, "maxReplicas": 12}
    started = template(values)
    omitted = template(values | {"omitReplicas": True})

    assert started.of("StatefulSet")["sensors-enrich"]["spec"]["replicas"] == 2
    assert "replicas" not in omitted.of("StatefulSet")["sensors-enrich"]["spec"]
    for rendered in (started, omitted):
        assert rendered.of("StatefulSet")["sensors-devices"]["spec"]["replicas"] == 2
        assert rendered.of("Deployment")["sensors-warehouse"]["spec"]["replicas"] == 1


def test_storage_makes_a_claim_for_each_replica(values):
    values["spec"]["processors"][0]["pod"] = {"storage": {"size": "10Gi", "storageClassName": "fast"}}
    rendered = template(values)
    (claim,) = rendered.of("StatefulSet")["sensors-enrich"]["spec"]["volumeClaimTemplates"]

    assert claim["metadata"]["name"] == "data"
    assert claim["spec"]["resources"] == {"requests": {"storage": "10Gi"}}
    assert claim["spec"]["storageClassName"] == "fast"
    assert "data" not in {volume["name"] for volume in rendered.pods()["sensors-enrich"]["volumes"]}


def test_without_storage_state_lives_with_the_pod(values):
    rendered = template(values)

    assert "volumeClaimTemplates" not in rendered.of("StatefulSet")["sensors-enrich"]["spec"]
    assert {"name": "data", "emptyDir": {}} in rendered.pods()["sensors-enrich"]["volumes"]


@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        (lambda spec: spec["processors"][0]["transforms"][0]["movingAverage"].update(window=20), True),
        (lambda spec: spec["kafka"].update(bootstrapServers="other:9093"), True),
        (lambda spec: spec["processors"][0].update(autoscaling={"maxReplicas": 12}), False),
        (lambda spec: spec.update(workloads="External"), False),
    ],
)
def test_pods_restart_when_a_change_concerns_them(values, change, restarts):
    def checksum() -> str:
        metadata = template(values).of("StatefulSet")["sensors-enrich"]["spec"]["template"]["metadata"]
        return metadata["annotations"]["checksum/pipeline"]

    before = checksum()
    change(values["spec"])

    assert (checksum() != before) is restarts

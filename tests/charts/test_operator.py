"""charts/operator: what it grants, what it starts, and which value makes what."""

import json

import kubernetes_schemas
import pytest
import yaml

import charts
from charts import Rendered
from forebay.pipeline import schema
from forebay_operator.api import rights
from forebay_operator.settings import OperatorSettings

CHART = charts.ROOT / "charts/operator"
NAME = "forebay-operator"


def template(*apis: str, **values) -> Rendered:
    known = [argument for api in apis for argument in ("--api-versions", api)]
    done = charts.helm(
        *["template", "forebay", str(CHART), "--namespace", "system", "--values", "-", *known],
        *["--kube-version", kubernetes_schemas.KUBERNETES],
        stdin=json.dumps(values),
    )
    return Rendered(done.returncode, done.stdout, done.stderr)


def granted(rules: list[dict]) -> dict[str, set[str]]:
    return {
        f"{resource}.{group}" if group else resource: set(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def container(rendered: Rendered) -> dict:
    return rendered.pods()[NAME]["containers"][0]


def environment(rendered: Rendered) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "from the pod") for entry in container(rendered)["env"]}


def test_it_renders_what_kubernetes_takes(own_schemas):
    rendered = template(networkPolicy={"enabled": True}, replicas=2, managedUsers=True)

    assert rendered.complaint == ""
    documents = [found for found in rendered.objects if found["kind"] != "CustomResourceDefinition"]
    assert charts.conform(yaml.safe_dump_all(documents), own_schemas) == ""


def test_helm_finds_nothing_to_complain_about():
    done = charts.helm("lint", "--strict", str(CHART), "--kube-version", kubernetes_schemas.KUBERNETES)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("managed_users", [False, True])
@pytest.mark.parametrize("cluster_wide", [False, True])
def test_it_grants_what_the_operator_does_and_nothing_else(cluster_wide, managed_users):
    rendered = template(clusterWide=cluster_wide, managedUsers=managed_users)
    roles = {
        name: granted(found["rules"])
        for name, found in (rendered.of("ClusterRole") | rendered.of("Role")).items()
        if name in {NAME, f"{NAME}.system", f"{NAME}-lease"}
    }
    looking_after = roles[f"{NAME}.system" if cluster_wide else NAME]

    assert looking_after | {"leases.coordination.k8s.io": {"get", "update", "create"}} == rights(
        managed_users=managed_users
    )
    lease = rendered.of("Role")[f"{NAME}-lease"]["rules"]
    assert {verb for rule in lease for verb in rule["verbs"]} == {"get", "update", "create"}


def test_secrets_are_written_on_request_alone():
    (found,) = (rule for rule in template().of("Role")[NAME]["rules"] if rule["resources"] == ["secrets"])

    assert set(found["verbs"]) == {"get", "list", "watch"}
    assert environment(template())["FOREBAY_OPERATOR_MANAGED_USERS"] == "false"


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [
        ({"clusterWide": True}, {}),
        (
            {"watchNamespaces": ["shop", "depot"]},
            {
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop", "depot"]}
                ]
            },
        ),
    ],
)
def test_pods_of_stages_can_be_asked(values, namespaces):
    (policy,) = template(networkPolicy={"enabled": True}, **values).of("NetworkPolicy").values()
    (peer,) = policy["spec"]["egress"][-1]["to"]

    assert policy["spec"]["egress"][-1]["ports"] == [{"port": 8080, "protocol": "TCP"}]
    assert peer == {
        "podSelector": {"matchExpressions": [{"key": "forebay.dev/pipeline", "operator": "Exists"}]},
        "namespaceSelector": namespaces,
    }


def test_it_escalates_nothing():
    rendered = template(clusterWide=True)
    rules = [
        rule for kind in ("Role", "ClusterRole") for found in rendered.of(kind).values() for rule in found["rules"]
    ]

    forbidden = {"*", "escalate", "bind", "impersonate", "pods/exec", "nodes", "roles", "clusterroles"}
    assert not any(forbidden & {*rule["verbs"], *rule["resources"], *rule["apiGroups"]} for rule in rules)


def test_rights_are_granted_where_pipelines_are_looked_after():
    rendered = template(watchNamespaces=["shop", "depot"])
    places = {found["metadata"]["namespace"] for found in rendered.objects
              if found["kind"] == "Role" and found["metadata"]["name"] == NAME}  # fmt: skip

    assert places == {"shop", "depot"}
    assert rendered.of("ClusterRole").keys() == {f"{NAME}-edit", f"{NAME}-view"}
    assert environment(rendered)["FOREBAY_OPERATOR_NAMESPACES"] == "shop,depot"


@pytest.mark.parametrize(
    ("values", "namespaces"),
    [({}, "system"), ({"clusterWide": True}, ""), ({"clusterWide": True, "watchNamespaces": ["shop"]}, "")],
)
def test_the_operator_watches_what_it_was_given(values, namespaces):
    assert environment(template(**values))["FOREBAY_OPERATOR_NAMESPACES"] == namespaces


def test_the_environment_is_what_the_operator_reads(monkeypatch):
    """The rendered variables, read by the operator's own settings."""
    images = {"registry": "registry.example.com/team", "sink": "registry.example.com/own:1"}
    found = environment(
        template(images=images, podDefaults={"logLevel": "debug"}, watchNamespaces=["shop"], managedUsers=True)
    )
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    settings = OperatorSettings()

    assert settings.namespaces == ("shop",)
    assert settings.managed_users
    assert (settings.images.registry, settings.images.sink) == ("registry.example.com/team", images["sink"])
    assert settings.images.tag == yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert settings.pod_defaults.log_level == "debug"
    assert {name.removeprefix("FOREBAY_OPERATOR_").lower() for name in found} <= OperatorSettings.model_fields.keys()


def test_the_definition_is_the_generated_one_and_stays():
    (rendered,) = template().of("CustomResourceDefinition").values()

    assert rendered["spec"] == json.loads(json.dumps(schema.crd()["spec"]))
    assert rendered["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize(
    ("values", "kind", "count"),
    [
        ({"crds": {"enabled": False}}, "CustomResourceDefinition", 0),
        ({}, "NetworkPolicy", 0),
        ({"networkPolicy": {"enabled": True}}, "NetworkPolicy", 1),
        ({}, "Job", 1),
        ({"uninstall": {"releasePipelines": False}}, "Job", 0),
    ],
)
def test_switches(values, kind, count):
    assert len(template(**values).of(kind)) == count


def test_only_the_definition_is_the_whole_clusters():
    """Two operators, each for its own namespaces, do not meet."""
    rendered = template(crds={"enabled": False})

    assert not any("namespace" not in found["metadata"] for found in rendered.objects)


def test_the_definition_goes_with_the_release_on_request():
    (rendered,) = template(crds={"keep": False}).of("CustomResourceDefinition").values()

    assert "annotations" not in rendered["metadata"]


def test_the_service_monitor_needs_the_prometheus_operator():
    refused = template(serviceMonitor={"enabled": True})
    rendered = template("monitoring.coreos.com/v1/ServiceMonitor", serviceMonitor={"enabled": True})

    assert "install the Prometheus Operator" in refused.complaint
    assert len(rendered.of("ServiceMonitor")) == 1


@pytest.mark.parametrize("name", [NAME, f"{NAME}-release"])
def test_pods_are_restricted(name):
    pod = template().pods()[name]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for found in pod["containers"]:
        assert found["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_nothing_secret_is_in_the_environment():
    assert not any("secretKeyRef" in json.dumps(entry) for entry in container(template())["env"])


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"image": {"nmae": "x"}}, "nmae"),
        ({"replicas": -1}, "replicas"),
        ({"watchNamespaces": ["Shop"]}, "watchNamespaces"),
        ({"logLevel": "loud"}, "logLevel"),
    ],
)
def test_wrong_values_are_refused(values, complaint):
    rendered = template(**values)

    assert rendered.returncode != 0
    assert complaint in rendered.complaint

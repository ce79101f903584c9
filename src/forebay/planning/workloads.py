"""What charts/pipeline is told: its values as models, and from a Pipeline to those values.

The chart is the only place where Deployments and StatefulSets are written down; whoever deploys a Pipeline, a person
with Helm or the operator, hands it these values. The defaults are those of the chart's values.yaml.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from forebay.pipeline import spec
from forebay.pipeline.spec import (
    IMAGE,
    Affinity,
    KubernetesKey,
    LabelValue,
    Model,
    OneOf,
    Opaque,
    Pipeline,
    PipelineSpec,
    Resources,
    SecretRef,
    ShortText,
    Toleration,
)

ImageOrNone = Annotated[str, StringConstraints(pattern=rf"^$|{IMAGE}", max_length=512)]
Peers = Annotated[tuple[Opaque, ...], Field(max_length=64)]
"""NetworkPolicyPeers; none of them means everybody."""


class Images(Model):
    """The services' images: REGISTRY/forebay-SERVICE:TAG, or what is named for a service."""

    registry: Annotated[str, StringConstraints(pattern=IMAGE, min_length=1, max_length=255)] = "localhost"
    """Registry and path in front of the images' names."""
    tag: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]*$", max_length=128)] = ""
    """Default: the chart's appVersion."""
    producer: ImageOrNone = ""
    """The whole name, with tag or digest, instead."""
    processor: ImageOrNone = ""
    sink: ImageOrNone = ""
    operator: ImageOrNone = ""
    """Carries the `forebay` command."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: Annotated[tuple[SecretRef, ...], Field(max_length=16)] = ()


class ResourcesByKind(Model):
    """Resources of each kind of stage. Without a memory request the chart reckons one from the stage."""

    producer: Resources = Resources(requests={"cpu": "50m"})
    processor: Resources = Resources(requests={"cpu": "50m"})
    sink: Resources = Resources(requests={"cpu": "50m"})


class PodDefaults(Model):
    """What all pods have in common; `pod` of a stage in the spec goes before it."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    resources: ResourcesByKind = ResourcesByKind()
    node_selector: Annotated[dict[KubernetesKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=32)] = ()
    affinity: Affinity = Affinity()
    priority_class_name: Annotated[str, StringConstraints(max_length=253)] = ""
    labels: Annotated[dict[KubernetesKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    annotations: Annotated[dict[KubernetesKey, ShortText], Field(max_length=32)] = Field(default_factory=dict)
    read_only_root_filesystem: bool = True
    """Only `skaffold dev` needs False: it overwrites code in running containers."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=3_600)] = 75
    """A stopping replica ends its batch and commits: Kafka may take 15 s for that, a sink's statement 60 s."""


class PodMonitor(Model):
    """Scraping by the Prometheus Operator."""

    enabled: bool = False
    interval: Annotated[str, StringConstraints(pattern=r"^[0-9]+(ms|s|m)$", max_length=16)] = "15s"
    labels: Annotated[dict[KubernetesKey, LabelValue], Field(max_length=32)] = Field(default_factory=dict)
    """What your Prometheus selects PodMonitors by."""


class NetworkPolicy(Model):
    """Who may talk to the pods, and to whom they may talk. Not every network plugin enforces it."""

    enabled: bool = False
    scrapers: Peers = ()
    """Who may read metrics; probes of the kubelet always may."""
    brokers: Peers = ()
    """Where the brokers are; without it their ports are open to everywhere."""
    broker_ports: Annotated[tuple[spec.Port, ...], Field(max_length=16)] = ()
    """Ports that brokers advertise beside those in bootstrapServers."""
    databases: Peers = ()
    database_port: spec.Port = 5432


class PipelineObject(Model):
    """The Pipeline object beside the workloads: the operator then does topics and scaling on them."""

    create: bool = False


class TopicsJob(Model):
    """`forebay apply` before every install and upgrade, where there is no operator."""

    job: bool = False


class Values(Model):
    """The values of charts/pipeline. The Pipeline's name is the release's."""

    spec: PipelineSpec
    """The spec of a Pipeline, word for word."""
    images: Images = Images()
    pod_defaults: PodDefaults = PodDefaults()
    omit_replicas: bool = False
    """Leaves spec.replicas out where minReplicas and maxReplicas differ, for whoever scales owns the field."""
    managed_by: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]*$", max_length=63)] = ""
    """Who deploys this, for the label app.kubernetes.io/managed-by; default: Helm."""
    topics: TopicsJob = TopicsJob()
    pipeline: PipelineObject = PipelineObject()
    pod_monitor: PodMonitor = PodMonitor()
    network_policy: NetworkPolicy = NetworkPolicy()
    global_: Annotated[dict[str, Any], Field(alias="global", default_factory=dict)]
    """What a parent chart hands down; nothing of it is used."""


def values(pipeline: Pipeline, images: Images, pod_defaults: PodDefaults | None = None) -> dict[str, Any]:
    """What the operator renders the chart with. Every default of the spec is written out."""
    chosen = Values(
        spec=pipeline.spec,
        images=images,
        pod_defaults=pod_defaults or PodDefaults(),
        omit_replicas=True,
        managed_by="forebay",
    )
    return chosen.model_dump(mode="json", by_alias=True, exclude_none=True)


def values_schema() -> str:
    """values.schema.json: draft 7, which every Helm 3 understands. Unknown fields are refused."""
    generated = Values.model_json_schema(by_alias=True, ref_template="#/definitions/{model}")
    models = _models()
    definitions = {name: _draft7(node, models.get(name)) for name, node in generated.pop("$defs").items()}
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_draft7(generated, Values),
        "definitions": definitions,
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _models() -> dict[str, type[BaseModel]]:
    """Every model of the specification and of the values, by its name."""
    found = {**vars(spec), **globals()}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, BaseModel)}


def _draft7(node: Any, model: type[BaseModel] | None = None) -> Any:
    """What pydantic generates, without titles, without null (an absent field is left out), with unions' members."""
    if isinstance(node, list):
        return [_draft7(item) for item in node]
    if not isinstance(node, dict):
        return node
    if options := [option for option in node.get("anyOf", ()) if option.get("type") != "null"]:
        (option,) = options  # there are no unions but with null
        node = {**option, **{key: value for key, value in node.items() if key not in {"anyOf", "default"}}}
    result = {
        key: {name: _draft7(child) for name, child in value.items()} if key == "properties" else _draft7(value)
        for key, value in node.items()
        if key != "title" and not (key == "default" and (value is None or isinstance(value, dict | list)))
    }
    if model is not None and issubclass(model, OneOf):
        members = (model.model_fields[name].alias for name in model.members())
        result["oneOf"] = [{"required": [member]} for member in members]
    return result

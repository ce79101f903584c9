"""The models as Kubernetes wants them: a CustomResourceDefinition with a structural schema and CEL rules.

A structural schema has a type everywhere and neither references nor alternatives; unknown fields are pruned rather than
refused. CEL says what `rules` says wherever CEL can, so that `kubectl apply` refuses most contradictions by itself. All
lists and texts are bounded, which keeps the estimated cost of the rules far below the API server's limit.
"""

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from forebay.pipeline import spec
from forebay.pipeline.names import GROUP, VERSION
from forebay.pipeline.rules import STATEFUL_SET_NAME
from forebay.pipeline.spec import OneOf, Pipeline

Schema = dict[str, Any]
Cel = tuple[str, str]
"""A rule that must be true, and the message when it is not."""

_KEPT = (
    "type",
    "description",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
)
"""What both dialects mean alike."""


def _names_fit(kind: str, replicas: str) -> Cel:
    stages = f"self.spec.{kind}"
    length = f"size(self.metadata.name) + size(s.name) + size(string({replicas} - 1)) + 2"
    return (
        f"!has({stages}) || {stages}.all(s, {length} <= {STATEFUL_SET_NAME})",
        f"Pipeline, stage and number of a replica share {STATEFUL_SET_NAME} characters: shorten a name in {kind}",
    )


def _names_declared_topics(kind: str, end: str) -> Cel:
    return (
        f"!has(self.{kind}) || self.{kind}.all(s, self.topics.exists(t, t.name == s.{end}))",
        f"every `{end}` in {kind} names an entry of topics: declare the topic there, or correct the name",
    )


def _replicas_fit(kind: str) -> Cel:
    fits = "t.name != s.from || !has(t.partitions) || s.autoscaling.maxReplicas <= t.partitions"
    return (
        f"!has(self.{kind}) || self.{kind}.all(s, self.topics.all(t, {fits}))",
        (
            f"maxReplicas in {kind} is at most the partitions of the input, for a replica without one idles: lower "
            "maxReplicas, or give the topic more partitions"
        ),
    )


def _names_differ(kind: str, other: str) -> Cel:
    return (
        f"!has(self.{kind}) || !has(self.{other}) || self.{kind}.all(s, self.{other}.all(o, s.name != o.name))",
        f"names of stages are unique, and {kind} and {other} share one: rename a stage",
    )


def _reads_no_file(stages: str) -> Cel:
    return "!has(self.pod) || !has(self.pod.files)", f"{stages} read no file: remove pod.files"


def _kept_storage(stages: str) -> Cel:
    """A StatefulSet's volume claims cannot be changed."""
    had, has = "has(oldSelf.pod) && has(oldSelf.pod.storage)", "has(self.pod) && has(self.pod.storage)"
    return (
        f"({has}) == ({had}) && (!({has}) || self.pod.storage == oldSelf.pod.storage)",
        (
            f"pod.storage of {stages} cannot be changed, for Kubernetes keeps a StatefulSet's volumes as they were made: "
            "rename the stage, or delete the Pipeline and apply it anew"
        ),
    )


_SAME_STATE = " && ".join(
    f"has(self.{kind}) == has(oldSelf.{kind})" for kind in map(to_camel, spec.Transform.members())
)

_GROWN = "!has(self.partitions) || !has(oldSelf.partitions) || self.partitions >= oldSelf.partitions"

CEL: dict[type[BaseModel], tuple[Cel, ...]] = {
    Pipeline: (
        _names_fit("producers", "s.replicas"),
        _names_fit("processors", "s.autoscaling.maxReplicas"),
        _names_fit("sinks", "s.autoscaling.maxReplicas"),
    ),
    spec.PipelineSpec: (
        (
            " || ".join(
                f"(has(self.{kind}) && size(self.{kind}) > 0)" for kind in ("producers", "processors", "sinks")
            ),
            "there is a stage: add an entry to producers, processors or sinks",
        ),
        _names_declared_topics("producers", "to"),
        _names_declared_topics("processors", "from"),
        _names_declared_topics("processors", "to"),
        _names_declared_topics("sinks", "from"),
        _replicas_fit("processors"),
        _replicas_fit("sinks"),
        _names_differ("producers", "processors"),
        _names_differ("producers", "sinks"),
        _names_differ("processors", "sinks"),
    ),
    spec.Kafka: (
        ("!has(self.sasl) || has(self.tls)", "sasl without tls would send the password in the clear: add tls: {}"),
        ("!has(self.adminSecretRef) || has(self.sasl)", "adminSecretRef needs a mechanism: add sasl"),
        (
            "!has(self.sasl) || !has(self.sasl.users) || has(self.adminSecretRef)",
            "managed users are made by an administrator: add adminSecretRef, with a user that may do so",
        ),
    ),
    spec.Sasl: (
        (
            "!has(self.users) || self.mechanism != 'PLAIN'",
            "Kafka has no way to make users for PLAIN: set mechanism to SCRAM-SHA-512",
        ),
        (
            "has(self.users) || self.rotateEvery == 'Never'",
            ("a user of a Secret is changed by whoever writes the Secret: remove rotateEvery, or use users: Managed"),
        ),
    ),
    spec.Topic: (
        (
            "self.management == 'External' || has(self.partitions)",
            "a Managed topic has partitions: add partitions, or management: External if somebody else creates it",
        ),
        (
            f"self.management == 'External' || {_GROWN}",
            "partitions only grow, for Kafka cannot take them away: keep the number, or use a topic with another name",
        ),
    ),
    spec.FieldMapping: (
        ("!has(self.column) || !has(self.constant)", "a field has a column or a constant, not both: remove one"),
        (
            "!has(self.format) || self.type == 'timestamp'",
            "a format is for type timestamp: remove format, or change type",
        ),
    ),
    spec.Producer: (
        ("!has(self.source.file) || self.replicas == 1", "a file has one reader: set replicas to 1"),
        (
            "!has(self.pod) || !has(self.pod.files) || has(self.source.file)",
            "pod.files is for file sources: remove it",
        ),
        ("!has(self.pod) || !has(self.pod.storage)", "producers keep nothing on disk: remove pod.storage"),
    ),
    spec.Processor: (
        ("self.from != self.to", "a processor writes to another topic than it reads: change from or to"),
        _reads_no_file("processors"),
        _kept_storage("processors"),
    ),
    spec.Sink: (
        (
            "has(self.destination.duckdb) || !has(self.pod) || !has(self.pod.storage)",
            "sinks other than duckdb keep nothing on disk: remove pod.storage",
        ),
        _reads_no_file("sinks"),
        _kept_storage("sinks"),
        (
            "!has(self.destination.duckdb) || self.autoscaling.maxReplicas == 1",
            "one process alone can write a DuckDB file: set maxReplicas to 1, or use postgres",
        ),
    ),
    spec.Autoscaling: (
        (
            "self.minReplicas <= self.maxReplicas",
            "minReplicas is at most maxReplicas: lower minReplicas or raise maxReplicas",
        ),
    ),
    spec.Delivery: (("self.lingerMs < self.timeoutMs", "lingerMs is less than timeoutMs: lower lingerMs"),),
    spec.Transform: (
        (
            f"self.stateVersion != oldSelf.stateVersion || ({_SAME_STATE})",
            (
                "another kind of transform cannot read the state kept under this name: give it another name, or raise "
                "stateVersion to start with empty state"
            ),
        ),
        (
            (
                "self.stateVersion != oldSelf.stateVersion || !has(self.movingAverage) || !has(oldSelf.movingAverage) || "
                "self.movingAverage.field == oldSelf.movingAverage.field"
            ),
            "the state of movingAverage holds values of the former field: raise stateVersion to start with empty state",
        ),
    ),
    spec.MovingAverage: (
        ("self.field != self.output", "output is another field than the one averaged: rename output"),
    ),
    spec.Condition: (
        (
            "has(self.exists) || has(self.min) || has(self.max) || has(self.oneOf)",
            "a condition tests something: set exists, min, max or oneOf",
        ),
        ("!has(self.min) || !has(self.max) || self.min <= self.max", "min is at most max: exchange them"),
    ),
}
"""Beside these, every union has its rule: exactly one member is set."""


def crd() -> Schema:
    """The CustomResourceDefinition of Pipelines."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"pipelines.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "Pipeline",
                "listKind": "PipelineList",
                "plural": "pipelines",
                "singular": "pipeline",
                "shortNames": ["pl"],
                "categories": ["forebay"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [column.definition() for column in COLUMNS],
                    "schema": {"openAPIV3Schema": _root()},
                }
            ],
        },
    }


def crd_yaml() -> str:
    """The CustomResourceDefinition as YAML."""
    plain = json.loads(json.dumps(crd()))  # no object is shared, so that YAML needs no anchors
    return yaml.safe_dump(plain, sort_keys=False, width=120, allow_unicode=True)


def _root() -> Schema:
    return {
        "type": "object",
        "description": inspect.getdoc(Pipeline),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": _field(Pipeline, "metadata")["properties"]["name"]}},
            "spec": _field(Pipeline, "spec"),
            "status": _STATUS,
        },
        **_validations(CEL[Pipeline]),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What `kubectl get pipelines` shows in one column."""

    name: str
    path: str
    text: str
    kind: str = "string"
    is_wide: bool = False
    """Shown with `-o wide` alone."""

    def definition(self) -> Schema:
        """As the CustomResourceDefinition says it."""
        priority = {"priority": 1} if self.is_wide else {}
        return {
            "name": self.name,
            "type": self.kind,
            "jsonPath": self.path,
            "description": self.text,
            **priority,
        }


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


COLUMNS = (
    Column(name="Ready", path=_condition("Ready", "status"), text="Everything is as the Pipeline asks, and runs."),
    Column(name="Replicas", path=".status.replicas", text="Ready replicas of all stages / wanted ones."),
    Column(name="Lag", path=".status.lag", text="Records not yet read, summed over all stages that read."),
    Column(name="Behind", path=".status.behind", text="How old the oldest unread record of any stage is."),
    Column(name="Rate", path=".status.rate", text="Records per second into the first topics."),
    Column(name="Why", path=".status.why", text="In one word, what keeps the Pipeline, or what its worst stage does."),
    Column(name="Age", path=".metadata.creationTimestamp", kind="date", text="Since it was created."),
    Column(name="Topics", path=".status.topics", is_wide=True, text="Topics that are as wanted / all of them."),
    Column(name="Workloads", path=_condition("WorkloadsReady", "reason"), is_wide=True, text="How the pods are."),
    Column(name="Scaling", path=_condition("Scaling", "reason"), is_wide=True, text="The last verdict on replicas."),
    Column(name="Message", path=_condition("Ready", "message"), is_wide=True, text="What is wrong, and the cure."),
)

_TEXT: Schema = {"type": "string", "maxLength": 64}
_WORD: Schema = {"type": "string", "maxLength": 128}
_SENTENCE: Schema = {"type": "string", "maxLength": 32768}
_TIME: Schema = {"type": "string", "format": "date-time"}
_COUNT: Schema = {"type": "integer", "format": "int32", "minimum": 0}


def _list_by(key: str, most: int, properties: Schema, *required: str) -> Schema:
    return {
        "type": "array",
        "maxItems": most,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key],
        "items": {"type": "object", "required": [key, *required], "properties": properties},
    }


_STATUS: Schema = {
    "type": "object",
    "description": "What the operator last saw. Numbers are rounded, for people; exact ones are in its metrics.",
    "properties": {
        "observedGeneration": {"type": "integer", "format": "int64", "description": "The spec that this is about."},
        "replicas": _TEXT | {"description": "Ready replicas of all stages / wanted ones, e.g. 4/5."},
        "lag": _TEXT | {"description": "Records not yet read, e.g. 1.2k."},
        "behind": _TEXT | {"description": "How old the oldest unread record is, e.g. 12s."},
        "rate": _TEXT | {"description": "Records per second into the first topics, e.g. 200/s."},
        "topics": _TEXT | {"description": "Topics that are as wanted / all of them, e.g. 6/6."},
        "upgradedAt": _TIME
        | {
            "description": "When a new version of the operator rendered the Pipeline anew; gone once it is ready again."
        },
        "why": _WORD | {"description": "In one word, what keeps the Pipeline, or what its worst stage does."},
        "conditions": _list_by(
            "type",
            16,
            {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64"},
                "lastTransitionTime": _TIME,
                "reason": {"type": "string", "maxLength": 1024},
                "message": _SENTENCE,
            },
            "status",
        ),
        "managedTopics": _list_by(
            "name",
            1024,
            {
                "name": {"type": "string", "maxLength": 249},
                "id": _TEXT | {"description": "Kafka's: a topic that was deleted and made again has another."},
            },
            "id",
        )
        | {"description": "Topics that this Pipeline created or took over, and may delete."},
        "managedUsers": {
            "type": "array",
            "maxItems": 1024,
            "x-kubernetes-list-type": "set",
            "items": {"type": "string", "maxLength": 249},
            "description": "Users in Kafka that this Pipeline made or took over, and may delete.",
        },
        "stages": _list_by(
            "name",
            96,
            {
                "name": {"type": "string", "maxLength": 40},
                "kind": {"type": "string", "enum": ["producer", "processor", "sink"]},
                "replicas": _COUNT | {"description": "Wanted."},
                "readyReplicas": _COUNT,
                "lag": _TEXT | {"description": "Records not yet read."},
                "behind": _TEXT | {"description": "How old the oldest unread record is."},
                "rate": _TEXT | {"description": "Records per second that arrive in its input."},
                "capacity": _TEXT | {"description": "What one replica was measured to do, e.g. 400/s."},
                "reason": _WORD,
                "message": _SENTENCE,
                "scaling": {
                    "type": "object",
                    "description": "What scaling must remember when the operator restarts; written when it has changed.",
                    "x-kubernetes-preserve-unknown-fields": True,
                },
            },
        ),
    },
}


def _field(model: type[BaseModel], name: str) -> Schema:
    """The structural schema of one field of a model."""
    generated = model.model_json_schema(by_alias=True)
    return _structural(generated["properties"][name], generated["$defs"])


def _structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """What pydantic generates, with references resolved and without what Kubernetes refuses."""
    node, rules = _resolved(node, definitions)
    result = {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        result["enum"] = [node["const"]]
    if node.get("default") not in (None, [], {}):
        result["default"] = node["default"]
    result |= _exclusive_bounds(node)
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
        if "name" in result["items"].get("required", ()):
            result |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    if "properties" in node:
        result["properties"] = {name: _structural(child, definitions) for name, child in node["properties"].items()}
    for values in (node.get("additionalProperties"), *node.get("patternProperties", {}).values()):
        if isinstance(values, dict):  # Kubernetes knows no patterns of keys: those the library judges
            result["additionalProperties"] = _structural(values, definitions)
    if node.get("additionalProperties") is True:
        result["x-kubernetes-preserve-unknown-fields"] = True
    return result | _validations(rules)


def _resolved(node: Schema, definitions: dict[str, Schema]) -> tuple[Schema, tuple[Cel, ...]]:
    """The node with what it refers to, its own words first, and the rules of the model that it stands for."""
    rules: tuple[Cel, ...] = ()
    for _ in range(2):  # an optional reference to a model is two steps away from it
        if options := [option for option in node.get("anyOf", ()) if option.get("type") != "null"]:
            (option,) = options  # there are no unions but with null
            node = {**option, **{key: value for key, value in node.items() if key != "anyOf"}}
        if "$ref" in node:
            name = node["$ref"].rpartition("/")[2]
            rules = tuple(_rules_of(getattr(spec, name)))
            node = {**definitions[name], **{key: value for key, value in node.items() if key != "$ref"}}
    return node, rules


def _rules_of(model: type) -> Iterator[Cel]:
    if issubclass(model, OneOf):
        members = [to_camel(name) for name in model.members()]
        is_set = ", ".join(f"has(self.{member})" for member in members)
        yield f"[{is_set}].exists_one(is_set, is_set)", f"set exactly one of {', '.join(members)}"
    yield from CEL.get(model, ())


def _validations(rules: tuple[Cel, ...]) -> Schema:
    if not rules:
        return {}
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


def _exclusive_bounds(node: Schema) -> Schema:
    """OpenAPI 3.0 says with a flag what JSON Schema says with a second number."""
    result: Schema = {}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in node:
            result |= {bound: node[exclusive], exclusive: True}
    return result

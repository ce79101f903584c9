"""The CustomResourceDefinition: structural, bounded, and saying what the models say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from forebay.pipeline import schema, spec

ROOT = Path(__file__).parents[3]

ALLOWED = {
    "type", "description", "format", "enum", "pattern", "default", "required", "items", "properties",
    "additionalProperties", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minItems", "maxItems", "minProperties", "maxProperties", "x-kubernetes-validations", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip
CEL_WORDS = {"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
             "let", "loop", "package", "namespace", "return", "var", "void", "while"}  # fmt: skip
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def root() -> dict:
    return schema.crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(node: dict, path: str = ""):
    """Every schema below a schema, with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for below in ("items", "additionalProperties"):
        if below in node:
            yield from nodes(node[below], f"{path}[]")


def violations(node: dict):
    """What the API server would refuse about one schema (apiextensions: structural schemas, list types, defaults)."""
    kind = node.get("type")
    yield from (f"unknown keyword {key}" for key in node.keys() - ALLOWED)
    if kind not in TYPES:
        yield f"no type: {kind}"
        return
    if kind == "object" and not node.keys() & {
        "properties",
        "additionalProperties",
        "x-kubernetes-preserve-unknown-fields",
    }:
        yield "nothing in it would be kept"
    if "properties" in node and "additionalProperties" in node:
        yield "properties and additionalProperties exclude each other"
    if "additionalProperties" in node and not isinstance(node["additionalProperties"], dict):
        yield "additionalProperties must be a schema"
    if (kind == "array") != ("items" in node):
        yield "items belong to arrays, and arrays have them"
    if not set(node.get("required", ())) <= set(node.get("properties", ())):
        yield "required names a field that does not exist"
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if flag in node and (node[flag] is not True or bound not in node):
            yield f"{flag} is a flag beside {bound}"
    if "default" in node and not isinstance(node["default"], TYPES[kind]):
        yield "a default of another type"
    if "enum" in node and kind != "string":
        yield "an enumeration of something else than texts"
    if node.get("x-kubernetes-list-type") == "map":
        item = node["items"]
        for key in node["x-kubernetes-list-map-keys"]:
            if key not in item["required"] or item["properties"][key]["type"] != "string":
                yield f"list map key {key} is no required text"
    for rule in node.get("x-kubernetes-validations", ()):
        if not rule["message"] or "\n" in rule["message"] or len(rule["message"]) > 2048:
            yield "a rule without a message of one line"


def test_the_schema_is_structural():
    assert [(path, found) for path, node in nodes(root()) for found in violations(node)] == []


@pytest.mark.parametrize(
    "broken",
    [
        {"$ref": "#/x"},
        {"anyOf": [{"type": "string"}]},
        {"type": "string", "title": "X"},
        {"type": "object", "additionalProperties": False},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "array"},
        {"type": "integer", "default": "1"},
    ],
)
def test_the_checker_sees_what_is_not_structural(broken):
    assert list(violations(broken))


def test_every_text_list_and_map_is_bounded():
    spec_schema = root()["properties"]["spec"]
    unbounded = [
        path
        for path, node in nodes(spec_schema)
        if (node["type"] == "string" and "enum" not in node and "maxLength" not in node)
        or (node["type"] == "array" and "maxItems" not in node)
        or ("additionalProperties" in node and "maxProperties" not in node)
    ]

    assert unbounded == []


def test_lists_of_named_objects_are_maps_by_name():
    spec_schema = root()["properties"]["spec"]
    lists = {path: node for path, node in nodes(spec_schema) if node["type"] == "array"}
    named = {path for path, node in lists.items() if "name" in node["items"].get("properties", {})}

    assert {".topics", ".producers", ".processors", ".sinks", ".processors[].transforms"} <= named
    assert named == {path for path, node in lists.items() if node.get("x-kubernetes-list-type") == "map"}


def test_every_union_wants_exactly_one_member():
    rules = {rule["rule"] for _, node in nodes(root()) for rule in node.get("x-kubernetes-validations", ())}

    assert {spec.Sasl, spec.Source, spec.Transform, spec.Destination, spec.Files} == set(spec.OneOf.__subclasses__())
    assert "[has(self.simulator), has(self.file)].exists_one(is_set, is_set)" in rules
    assert "[has(self.movingAverage), has(self.filter), has(self.python)].exists_one(is_set, is_set)" in rules
    assert "[has(self.duckdb), has(self.postgres), has(self.stdout)].exists_one(is_set, is_set)" in rules


def test_all_rules_reach_the_schema():
    rules = [rule["rule"] for _, node in nodes(root()) for rule in node.get("x-kubernetes-validations", ())]

    assert {rule for model in schema.CEL.values() for rule, _ in model} <= set(rules)


def test_partitions_only_grow():
    topic = root()["properties"]["spec"]["properties"]["topics"]["items"]
    (rule,) = (rule for rule in topic["x-kubernetes-validations"] if "oldSelf" in rule["rule"])

    assert "self.partitions >= oldSelf.partitions" in rule["rule"]


def test_every_rule_says_what_to_do():
    """A message is a statement and, after the colon, the cure; `set exactly one of ...` is one by itself."""
    messages = {rule["message"] for _, node in nodes(root()) for rule in node.get("x-kubernetes-validations", ())}

    assert {
        message for message in messages if ": " not in message and not message.startswith("set exactly one")
    } == set()


def test_columns_point_to_what_the_status_has():
    status = root()["properties"]["status"]["properties"]
    for column in schema.crd()["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"].removeprefix(".status.").partition("[")[0]
        assert path in status or column["name"] == "Age"


def test_plain_columns_are_those_that_answer_at_once():
    columns = schema.crd()["spec"]["versions"][0]["additionalPrinterColumns"]

    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Ready",
        "Replicas",
        "Lag",
        "Behind",
        "Rate",
        "Why",
        "Age",
    ]


def test_the_status_is_structural_to_its_end():
    """What the operator writes is in the schema: nothing is pruned, and nothing unknown is kept but scaling's memory."""
    status = root()["properties"]["status"]
    open_nodes = [path for path, node in nodes(status) if node.get("x-kubernetes-preserve-unknown-fields")]

    assert open_nodes == [".stages[].scaling"]


def test_no_field_is_called_like_a_word_of_cel():
    fields = {name for _, node in nodes(root()) for name in node.get("properties", {})}

    assert not fields & CEL_WORDS


def test_bounds_and_defaults_are_those_of_the_models():
    properties = root()["properties"]["spec"]["properties"]
    simulator = properties["producers"]["items"]["properties"]["source"]["properties"]["simulator"]["properties"]
    autoscaling = properties["sinks"]["items"]["properties"]["autoscaling"]

    assert {"minimum": 0, "exclusiveMinimum": True}.items() <= simulator["eventsPerSecond"].items()
    assert "default" not in simulator["eventsPerSecond"]
    assert (autoscaling["properties"]["maxReplicas"]["minimum"],
                           autoscaling["properties"]["maxReplicas"]["maximum"]) == (1, 10_000)  # fmt: skip
    assert spec.Autoscaling().model_dump(by_alias=True) == autoscaling["default"]


def test_fields_carry_their_documentation():
    topic = root()["properties"]["spec"]["properties"]["topics"]["items"]["properties"]

    assert "never shrink" in topic["partitions"]["description"]


def test_the_definition_is_plain_yaml_of_a_size_that_the_api_server_takes():
    text = schema.crd_yaml()

    assert json.dumps(schema.crd()) == json.dumps(yaml.safe_load(text))
    assert "&id" not in text
    assert len(text) < 262_144  # kubectl apply keeps a copy in an annotation of this size


def test_generated_files_are_current():
    check = subprocess.run(
        [sys.executable, "hack/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (check.returncode, check.stderr) == (0, "")

"""JSON schemas of Kubernetes' and our own objects for kubeconform, made from the OpenAPI document of the Kubernetes source.

Nothing is fetched but the Go module k8s.io/kubernetes, which `make cluster` downloads anyway.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

from forebay.pipeline import schema
from forebay_cli.embedded_kafka.install import cache_folder

KUBERNETES = "1.34.4"

_REPLACED = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": ["integer", "string"]},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": ["string", "number"]},
}
"""What OpenAPI 2 cannot say: it has one type for each value."""


def folder() -> Path:
    """A folder with a schema for each kind, named as kubeconform is told to look for them."""
    made = cache_folder() / f"kubernetes-schemas-{KUBERNETES}"
    if not made.is_dir():
        partial = made.with_name(f"{made.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        _write(json.loads(_openapi().read_text()), partial)
        try:
            partial.rename(made)
        except OSError:  # another run was faster
            shutil.rmtree(partial)
    return made


def pipelines(target: Path) -> Path:
    """A folder with the schema of our own objects, from the models as they are now."""
    (version,) = schema.crd()["spec"]["versions"]
    root = version["schema"]["openAPIV3Schema"]
    root["properties"]["metadata"] = {"type": "object"}  # the schema of a definition says only what it narrows there
    target.mkdir(parents=True, exist_ok=True)
    (target / "pipeline.json").write_text(json.dumps(_strict(root)))
    return target


def _openapi() -> Path:
    inside = f"k8s.io/kubernetes@v{KUBERNETES}"
    module = cache_folder() / "cluster/go/mod" / inside
    if not module.is_dir():
        go = shutil.which("go")
        if go is None:
            raise RuntimeError(f"the Go module {inside} is needed for its OpenAPI document: run `make cluster` first")
        answer = subprocess.run(
            [go, "mod", "download", "-json", inside], cwd="/", capture_output=True, text=True, check=True
        )
        module = Path(json.loads(answer.stdout)["Dir"])
    return module / "api/openapi-spec/swagger.json"


def _write(document: dict, target: Path) -> None:
    definitions = {name: _REPLACED.get(name) or _strict(node) for name, node in document["definitions"].items()}
    shared = target / "definitions.json"
    text = json.dumps({"definitions": definitions})
    shared.write_text(text.replace('"#/definitions/', '"definitions.json#/definitions/'))
    for name, node in definitions.items():
        for kind in node.get("x-kubernetes-group-version-kind", ()):
            group = f"{kind['group'].partition('.')[0]}-" if kind["group"] else ""
            path = target / f"{kind['kind'].lower()}-{group}{kind['version']}.json"
            path.write_text(json.dumps({"$ref": f"definitions.json#/definitions/{name}"}))


def _strict(node: object) -> object:
    """The schema without room for unknown fields, except where Kubernetes leaves it."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {}
    if "properties" in node and not {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & node.keys():
        closed["additionalProperties"] = False
    return {key: _strict(value) for key, value in node.items()} | closed

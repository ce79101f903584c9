"""Kubernetes objects as values: what was rendered, what is there, and whether the second is still the first.

The API server fills in defaults and writes quantities its own way, so an object is compared in the fields that were
applied alone, and, where that is known, with what those fields were right after applying them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forebay.pipeline.names import API_VERSION, FINALIZER, PIPELINE_LABEL, TEMPLATE_ANNOTATION

Body = dict[str, Any]

APPLIED_KINDS = (
    "ConfigMap",
    "Service",
    "PodDisruptionBudget",
    "NetworkPolicy",
    "PodMonitor",
    "StatefulSet",
    "Deployment",
)
"""What charts/pipeline makes, in the order in which it is applied: what pods need before the pods."""

WORKLOADS = frozenset({"StatefulSet", "Deployment"})


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """An object of the Pipeline's namespace."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Owner:
    """The Pipeline object that everything rendered for it goes away with."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object as it should be."""

    key: ObjectKey
    body: Body
    template: str
    """A hash of the body."""


def key_of(body: Mapping[str, Any]) -> ObjectKey:
    """The identity of an object within its namespace."""
    return ObjectKey(body["kind"], body["metadata"]["name"])


def prepare(rendered: Iterable[Body], owner: Owner) -> tuple[Manifest, ...]:
    """What the chart rendered, as the operator applies it: owned by the Pipeline, stamped, without replicas.

    The number of replicas belongs to scaling under a field manager of its own, so that switching autoscaling on and off
    never hands the field over, and never resets it.
    """
    manifests = [_prepared(body, owner) for body in rendered]
    return tuple(sorted(manifests, key=lambda manifest: (APPLIED_KINDS.index(manifest.key.kind), manifest.key.name)))


def _prepared(rendered: Body, owner: Owner) -> Manifest:
    body = json.loads(json.dumps(rendered))  # the rendered one is shared
    if body["kind"] in WORKLOADS:
        body["spec"].pop("replicas", None)
    metadata = body["metadata"]
    metadata["ownerReferences"] = [reference(owner)]
    template = digest(body)
    metadata.setdefault("annotations", {})[TEMPLATE_ANNOTATION] = template
    return Manifest(key_of(body), body, template)


def reference(owner: Owner) -> Body:
    """What makes an object go when its Pipeline goes."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Pipeline",
        "name": owner.name,
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def finalizers_patch(pipeline: Mapping[str, Any], *, is_held: bool) -> Body:
    """Ours added or removed. Others may have finalizers too, so the list is replaced only as it was read."""
    metadata = pipeline["metadata"]
    others = [finalizer for finalizer in metadata.get("finalizers", ()) if finalizer != FINALIZER]
    finalizers = [*others, FINALIZER] if is_held else others
    return {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": finalizers}}


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def is_owned(body: Mapping[str, Any], owner: Owner) -> bool:
    """Whether the object was made for this very Pipeline."""
    return any(reference["uid"] == owner.uid for reference in body["metadata"].get("ownerReferences", ()))


def template_of(body: Mapping[str, Any]) -> str | None:
    """The hash of what was applied last."""
    stamped: str | None = body["metadata"].get("annotations", {}).get(TEMPLATE_ANNOTATION)
    return stamped


def fingerprint(wanted: Any, live: Any) -> str:
    """A hash of what the live object has in the fields that are wanted."""
    return digest(_projected(wanted, live))


def _projected(wanted: Any, live: Any) -> Any:
    if isinstance(wanted, dict) and isinstance(live, dict):
        return {key: _projected(value, live.get(key)) for key, value in wanted.items()}
    if isinstance(wanted, list) and isinstance(live, list) and len(wanted) == len(live):
        return [_projected(one, other) for one, other in zip(wanted, live, strict=True)]
    return live


def is_as_applied(manifest: Manifest, live: Mapping[str, Any], remembered: str | None) -> bool:
    """Whether an object is still what was applied.

    Args:
        manifest: what should be applied.
        live: the object as it is.
        remembered: its `fingerprint` right after it was applied last; None when nobody remembers.
    """
    if template_of(live) != manifest.template:
        return False
    now = fingerprint(manifest.body, live)
    return now == remembered if remembered is not None else now == digest(manifest.body)


def pipeline_of(body: Mapping[str, Any]) -> str | None:
    """The Pipeline that the object says it belongs to."""
    name: str | None = body["metadata"].get("labels", {}).get(PIPELINE_LABEL)
    return name


def abandoned(live: Iterable[Mapping[str, Any]], manifests: Iterable[Manifest], owner: Owner) -> Iterator[ObjectKey]:
    """The objects that were made for the Pipeline and that it no longer has."""
    wanted = {manifest.key for manifest in manifests}
    for body in live:
        if body["kind"] in APPLIED_KINDS and is_owned(body, owner) and key_of(body) not in wanted:
            yield key_of(body)

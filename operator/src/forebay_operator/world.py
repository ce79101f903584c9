"""What is known of the cluster: the objects that matter, kept up to date by watches and by the answers to own writes.

A write's answer counts at once, so that the next round never decides on what was there before its own change. Bodies are
kept as text: hundreds of Pipelines stay small.
"""

import base64
import hashlib
import hmac
import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from forebay.pipeline.names import GROUP, ISSUED_AT_ANNOTATION, PIPELINE_LABEL, ROTATED_FOR_ANNOTATION
from forebay.planning.credentials.checks import Verdict
from forebay.planning.credentials.formats import GENERATION, PASSWORD, USERNAME, Use

Key = tuple[str, str]
"""Namespace and name of a Pipeline."""


_SAID = (USERNAME, GENERATION)
_ANNOTATIONS = (ISSUED_AT_ANNOTATION, ROTATED_FOR_ANNOTATION)


@dataclass(frozen=True, slots=True)
class Login:
    """What a Secret of a managed user says about itself; of others, that it is none."""

    owners: frozenset[str] = frozenset()
    """The uids of the Pipelines that it goes away with."""
    said: Mapping[str, bytes] = field(default_factory=dict)
    """User and generation; in place of a password, that there is one."""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Login":
        """What a Secret says, without its password."""
        owners = frozenset(reference["uid"] for reference in _owners(body))
        if not owners:
            return cls()
        data, annotations = body.get("data") or {}, body["metadata"].get("annotations") or {}
        said = {key: _decoded(data[key]) for key in _SAID if key in data}
        if data.get(PASSWORD):
            said[PASSWORD] = b"there is one"
        return cls(owners, said, {name: annotations[name] for name in _ANNOTATIONS if name in annotations})


def _owners(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    references = body["metadata"].get("ownerReferences") or ()
    return [each for each in references if each["kind"] == "Pipeline" and each["apiVersion"].startswith(f"{GROUP}/")]


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text or "")
    except ValueError:  # no API server writes such
        return b""


@dataclass(frozen=True, slots=True)
class SecretKeys:
    """A Secret without its contents: what tells whether they changed, and what was found in them."""

    digests: Mapping[str, str]
    """By key. Salted with what only this process knows: nothing can be guessed from them."""
    verdicts: dict[Use, Verdict] = field(default_factory=dict, compare=False)
    """By what it is used for, as far as somebody has asked. Those of former contents go with them."""
    login: Login = field(default_factory=Login, compare=False)


class World:
    """The objects by kind, namespace and name."""

    def __init__(self) -> None:
        self._bodies: dict[tuple[str, str, str], tuple[int, bytes, Key]] = {}
        self._members: dict[Key, set[tuple[str, str, str]]] = {}
        self._secrets: dict[tuple[str, str], SecretKeys] = {}
        self._secret_versions: dict[tuple[str, str], int] = {}
        self._logins: dict[Key, set[str]] = {}
        """By the Pipeline that Secrets go away with, their names."""
        self._pipelines: dict[Key, bytes] = {}
        self._versions: dict[Key, int] = {}
        self._specs: dict[Key, tuple[str, bytes]] = {}
        self._salt = os.urandom(16)

    def see(self, kind: str, body: Mapping[str, Any]) -> None:
        """An object as it is now; an older version than the known one is not news."""
        metadata = body["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        if kind == "Secret":
            self._see_secret(namespace, name, body)
            return
        version = int(metadata.get("resourceVersion", 0))
        if kind == "Pipeline":
            if version >= self._versions.get((namespace, name), 0):
                self._versions[namespace, name] = version
                spec = msgspec.json.encode(body.get("spec"))
                self._specs[namespace, name] = (metadata["uid"], hashlib.sha256(spec).digest())
                self._pipelines[namespace, name] = _encoded(kind, body)
            return
        owner = metadata.get("labels", {}).get(PIPELINE_LABEL)
        identity = (kind, namespace, name)
        if owner is None:
            self.forget(kind, namespace, name)
        elif identity not in self._bodies or version >= self._bodies[identity][0]:
            self.forget(*identity)  # it may have belonged to another Pipeline
            self._bodies[identity] = (version, _encoded(kind, body), (namespace, owner))
            self._members.setdefault((namespace, owner), set()).add(identity)

    def _see_secret(self, namespace: str, name: str, body: Mapping[str, Any]) -> None:
        known, digests = self._secrets.get((namespace, name)), self.digests(body)
        version, login = int(body["metadata"].get("resourceVersion", 0)), Login.of(body)
        if version < self._secret_versions.get((namespace, name), 0):
            return
        if known is None or (known.digests, known.login) != (digests, login):
            self.forget("Secret", namespace, name)
            verdicts = known.verdicts if known is not None and known.digests == digests else {}
            self._secrets[namespace, name] = SecretKeys(digests, verdicts, login)
            for reference in _owners(body):
                self._logins.setdefault((namespace, reference["name"]), set()).add(name)
        self._secret_versions[namespace, name] = version

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """The object is gone."""
        if kind == "Secret":
            self._secret_versions.pop((namespace, name), None)
            if (secret := self._secrets.pop((namespace, name), None)) is not None and secret.login.owners:
                for place in [key for key, found in self._logins.items() if key[0] == namespace and name in found]:
                    self._logins[place].discard(name)
                    if not self._logins[place]:
                        del self._logins[place]
        elif kind == "Pipeline":
            self._pipelines.pop((namespace, name), None)
            self._versions.pop((namespace, name), None)
            self._specs.pop((namespace, name), None)
        elif (known := self._bodies.pop((kind, namespace, name), None)) is not None:
            members = self._members[known[2]]
            members.discard((kind, namespace, name))
            if not members:
                del self._members[known[2]]

    def replace_all(self, kind: str, before: Iterable[Key], bodies: Iterable[Mapping[str, Any]]) -> None:
        """Everything of a kind as it was listed.

        Args:
            kind: of the objects.
            before: the `names` that were known when the list was asked for. What is not among it is gone; others are newer.
            bodies: all that there were, where `names` looked.
        """
        listed = {(body["metadata"]["namespace"], body["metadata"]["name"]): body for body in bodies}
        for known in before:
            if known not in listed:
                self.forget(kind, *known)
        for body in listed.values():
            self.see(kind, body)

    def names(self, kind: str, namespace: str | None) -> list[Key]:
        """Of all objects of a kind that are known, in a namespace or anywhere."""
        match kind:
            case "Secret":
                names: Iterable[Key] = self._secrets
            case "Pipeline":
                names = self._pipelines
            case _:
                names = ((space, name) for found, space, name in self._bodies if found == kind)
        return [key for key in names if namespace in {None, key[0]}]

    def pipeline(self, key: Key) -> dict[str, Any] | None:
        """A Pipeline object."""
        encoded = self._pipelines.get(key)
        return msgspec.json.decode(encoded) if encoded is not None else None

    def pipelines(self) -> dict[Key, tuple[str, bytes]]:
        """All Pipelines, with uid and a digest of the spec.

        The generation would not do: of the same one, a definition that was replaced shows more fields or fewer.
        """
        return dict(self._specs)

    def members(self, key: Key, kinds: Container[str] | None = None) -> Iterator[dict[str, Any]]:
        """What carries the Pipeline's label, of these kinds or all: workloads, pods and the rest."""
        for identity in sorted(self._members.get(key, ())):
            if kinds is None or identity[0] in kinds:
                yield msgspec.json.decode(self._bodies[identity][1])

    def secret(self, namespace: str, name: str) -> SecretKeys | None:
        """What a Secret holds, by key; None when there is none."""
        return self._secrets.get((namespace, name))

    def logins(self, key: Key) -> dict[str, Login]:
        """What the Secrets say that go away with a Pipeline of this name, by name."""
        return {name: self._secrets[key[0], name].login for name in sorted(self._logins.get(key, ()))}

    def digests(self, body: Mapping[str, Any]) -> dict[str, str]:
        """What tells one content of a Secret from another, by key."""
        data = body.get("data") or {}
        return {key: hmac.new(self._salt, str(text).encode(), hashlib.sha256).hexdigest() for key, text in data.items()}


def _encoded(kind: str, body: Mapping[str, Any]) -> bytes:
    """Without what only costs memory: who changed which field, and kubectl's copy of the whole."""
    metadata = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    annotations = dict(metadata.get("annotations", {}))
    annotations.pop("kubectl.kubernetes.io/last-applied-configuration", None)
    kept = {**body, "kind": kind, "metadata": metadata | {"annotations": annotations}}
    if kind == "Pod":
        kept.pop("spec", None)
    return msgspec.json.encode(kept)

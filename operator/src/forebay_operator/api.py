"""The few calls to Kubernetes that the operator makes, on plain dictionaries.

`kubernetes.aio` knows how to log in and how to keep logged in; its models of every kind of object would cost memory and
lose fields that they do not know. Every call has a deadline, and is counted.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from forebay.errors import ForebayError, Refused, TryLater
from forebay.pipeline.names import API_VERSION
from forebay_operator import metrics

Body = dict[str, Any]

TIMEOUT_S = 30.0

_WORKLOADS_MANAGER = "forebay"
_SCALING_MANAGER = "forebay-scaling"
"""Owns nothing but spec.replicas."""


@dataclass(frozen=True, slots=True)
class Resource:
    """Where objects of a kind are."""

    kind: str
    group_version: str
    plural: str

    @property
    def group(self) -> str:
        """The API group, empty for the oldest one."""
        return self.group_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        """The version in the group."""
        return self.group_version.rpartition("/")[2]


PIPELINES = Resource("Pipeline", API_VERSION, "pipelines")
SECRETS = Resource("Secret", "v1", "secrets")
PODS = Resource("Pod", "v1", "pods")
EVENTS = Resource("Event", "events.k8s.io/v1", "events")
LEASES = Resource("Lease", "coordination.k8s.io/v1", "leases")
APPLIED = (
    Resource("ConfigMap", "v1", "configmaps"),
    Resource("Service", "v1", "services"),
    Resource("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies"),
    Resource("StatefulSet", "apps/v1", "statefulsets"),
    Resource("Deployment", "apps/v1", "deployments"),
)
"""What charts/pipeline makes."""
BY_KIND = {resource.kind: resource for resource in (PIPELINES, SECRETS, PODS, EVENTS, LEASES, *APPLIED)}


RIGHTS: dict[str, frozenset[str]] = {
    "pipelines.forebay.dev": frozenset({"get", "list", "watch", "patch"}),
    "pipelines/status.forebay.dev": frozenset({"patch"}),
    "secrets": frozenset({"get", "list", "watch"}),
    "pods": frozenset({"list", "watch", "delete"}),
    "configmaps": frozenset({"list", "watch", "create", "patch", "delete"}),
    "services": frozenset({"list", "watch", "create", "patch", "delete"}),
    "poddisruptionbudgets.policy": frozenset({"list", "watch", "create", "patch", "delete"}),
    "networkpolicies.networking.k8s.io": frozenset({"list", "watch", "create", "patch", "delete"}),
    "statefulsets.apps": frozenset({"get", "list", "watch", "create", "patch", "delete"}),
    "deployments.apps": frozenset({"get", "list", "watch", "create", "patch", "delete"}),
    "events.events.k8s.io": frozenset({"create"}),
    "leases.coordination.k8s.io": frozenset({"get", "create", "update"}),
}
"""All that the operator does. The chart's Roles grant this; `Api` refuses to ask for anything else."""

USERS_RIGHTS: dict[str, frozenset[str]] = {"secrets": frozenset({"create", "patch", "delete"})}
"""What it does beside that where it makes users: Kubernetes cannot limit it to Secrets of some names."""


def rights(*, managed_users: bool) -> dict[str, frozenset[str]]:
    """All that the operator does with these settings."""
    more = USERS_RIGHTS if managed_users else {}
    return {where: verbs | more.get(where, frozenset()) for where, verbs in RIGHTS.items()}


class NotFound(TryLater):
    """There is no such object."""


class Conflict(TryLater):
    """The object is another one than was thought."""


class Denied(TryLater):
    """The operator's identity may not do this."""


class Api:
    """The API server, as one identity."""

    def __init__(self, client: ApiClient, *, managed_users: bool = False) -> None:
        self._client = client
        self._rights = rights(managed_users=managed_users)

    @classmethod
    async def connect(cls, *, managed_users: bool = False) -> "Api":
        """Log in as a pod does, or as KUBECONFIG says; with what is asked for only where users are made, or without."""
        configuration = Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # so in the client
        except config.ConfigException:
            try:
                await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            except (config.ConfigException, OSError) as error:
                raise Refused(f"there is no way to log in to Kubernetes: {error}: set KUBECONFIG") from error
        configuration.connection_pool_maxsize = 32
        return cls(ApiClient(configuration), managed_users=managed_users)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def version(self) -> str:
        """The server's version, e.g. v1.34.4."""
        answer = await self._request("GET", "/version", "Version")
        return str(answer["gitVersion"])

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        """One object; NotFound when there is none."""
        return await self._call("GET", resource, namespace, name)

    async def find(self, resource: Resource, namespace: str, name: str) -> Body | None:
        """One object; None when there is none."""
        try:
            return await self.get(resource, namespace, name)
        except NotFound:
            return None

    async def list_all(self, resource: Resource, namespace: str | None, *, selector: str = "") -> list[Body]:
        """All objects of a namespace, or of the cluster, page by page."""
        items: list[Body] = []
        query = {"limit": "500", **({"labelSelector": selector} if selector else {})}
        while True:
            page = await self._call("GET", resource, namespace, None, query=query)
            # of objects in a list the API server leaves out what they all are
            items += (item | {"apiVersion": resource.group_version, "kind": resource.kind} for item in page["items"])
            if not (token := page["metadata"].get("continue")):
                return items
            query["continue"] = token

    async def create(self, resource: Resource, namespace: str, body: Body) -> Body:
        """Create an object; Conflict when there is one of that name."""
        return await self._call("POST", resource, namespace, None, body=body)

    async def replace(self, resource: Resource, namespace: str, body: Body) -> Body:
        """Replace an object; Conflict when it has changed since it was read."""
        return await self._call("PUT", resource, namespace, body["metadata"]["name"], body=body)

    async def apply(self, body: Mapping[str, Any], namespace: str) -> Body:
        """Server-side apply, under the operator's own name; what others set in these fields gives way."""
        return await self._apply(dict(body), namespace, _WORKLOADS_MANAGER)

    async def scale(self, kind: str, namespace: str, name: str, replicas: int) -> Body:
        """Set spec.replicas of a workload that exists, under a name of its own."""
        resource = BY_KIND[kind]
        current = await self.get(resource, namespace, name)  # applying would create one that was deleted meanwhile
        body = {
            "apiVersion": resource.group_version,
            "kind": kind,
            "metadata": {"name": name, "uid": current["metadata"]["uid"]},
            "spec": {"replicas": replicas},
        }
        return await self._apply(body, namespace, _SCALING_MANAGER)

    async def patch(self, resource: Resource, namespace: str, name: str, patch: Body, *, status: bool = False) -> Body:
        """A merge patch."""
        return await self._call(
            "PATCH",
            resource,
            namespace,
            name,
            body=patch,
            content="application/merge-patch+json",
            subresource="status" if status else None,
        )

    async def delete(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete an object, and in the background what it owns; one that is gone is done."""
        try:
            await self._call("DELETE", resource, namespace, name, body={"propagationPolicy": "Background"})
        except NotFound:
            return

    async def _apply(self, body: Body, namespace: str, manager: str) -> Body:
        resource = BY_KIND[body["kind"]]
        return await self._call(
            "PATCH",
            resource,
            namespace,
            body["metadata"]["name"],
            body=body,
            content="application/apply-patch+yaml",
            query={"fieldManager": manager, "force": "true"},
        )

    async def _call(
        self,
        verb: str,
        resource: Resource,
        namespace: str | None,
        name: str | None,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
        subresource: str | None = None,
    ) -> Body:
        path = _path(resource, namespace, name, subresource)
        self._check_right(verb, resource, name, subresource, content)
        return await self._request(verb, path, resource.kind, body=body, query=query, content=content)

    def _check_right(
        self, verb: str, resource: Resource, name: str | None, subresource: str | None, content: str
    ) -> None:
        """What is asked for is among the rights, so that no Role can be short of it."""
        plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
        where = f"{plural}.{resource.group}" if resource.group else plural
        needed = {_VERBS[verb] if name or verb != "GET" else "list"}
        if content == "application/apply-patch+yaml":
            needed.add("create")
        if not needed <= self._rights.get(where, frozenset()):
            raise AssertionError(f"{' and '.join(sorted(needed))} {where} is not among the operator's rights")

    async def _request(
        self,
        verb: str,
        path: str,
        kind: str,
        *,
        body: Body | None = None,
        query: Mapping[str, str] | None = None,
        content: str = "application/json",
    ) -> Body:
        headers = {"Accept": "application/json", "Content-Type": content, "User-Agent": "forebay-operator"}
        queries: list[tuple[str, str]] = []
        doing = f"{verb} {path}"
        metrics.API_CALLS.labels(verb, kind).inc()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._client.update_params_for_auth(headers, queries, ["BearerToken"], path, verb, body)
                url = f"{self._client.configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")
                answer = await self._client.call_api(verb, url, headers, body, _request_timeout=TIMEOUT_S)
                data = await answer.read()  # type: ignore[no-untyped-call]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise TryLater(f"Kubernetes does not answer ({doing}): {str(error) or type(error).__name__}") from error
        if answer.status >= 400:  # noqa: PLR2004 - what HTTP calls an error
            raise _error(answer.status, data, doing)
        decoded: Body = json.loads(data)
        return decoded


_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


def _path(resource: Resource, namespace: str | None, name: str | None, subresource: str | None) -> str:
    root = "/api" if "/" not in resource.group_version else "/apis"
    parts: Sequence[str | None] = (
        *(("namespaces", namespace) if namespace else ()),
        resource.plural,
        name,
        subresource,
    )
    return f"{root}/{resource.group_version}/" + "/".join(quote(part) for part in parts if part)


def _error(status: int, data: bytes, doing: str) -> ForebayError:
    try:
        message = json.loads(data).get("message", "")
    except (ValueError, AttributeError):
        message = data[:200].decode(errors="replace")
    sentence = f"Kubernetes refuses to {doing}: {message or status}"
    match status:
        case 404:
            return NotFound(sentence)
        case 409:
            return Conflict(sentence)
        case 403:
            return Denied(f"{sentence}: let an administrator of the cluster add the right")
        case 400 | 422:
            return Refused(sentence)
        case _:
            return TryLater(sentence)

"""Of several operators one works: the one that holds the Lease.

Times are compared on this machine's own monotonic clock alone: a candidate waits until the Lease has not changed for its
whole duration while it was watching. Who cannot renew in time ends its process, before anybody else may begin.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

import structlog

from forebay.errors import Fatal, ForebayError, TryLater
from forebay_operator.api import LEASES, Api, Conflict, NotFound

log = structlog.get_logger()

DURATION_S = 15
RENEW_EVERY_S = 4.0
GIVE_UP_S = 10.0
"""Less than the duration: whoever lost the Lease has stopped before another one starts."""


class Lease:
    """One Lease object, as one candidate."""

    def __init__(self, api: Api, namespace: str, name: str, identity: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: tuple[Any, float] = (None, 0.0)
        self._held: dict[str, Any] | None = None
        """The Lease as we wrote it last: renewing it is one request."""

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        waiting = False
        while True:
            try:
                if await self._attempt():
                    log.info("leading", lease=self._name, identity=self._identity)
                    return
            except ForebayError as error:
                log.warning("the Lease could not be read or taken", error=str(error))
            if not waiting:
                log.info("another operator works; waiting for its Lease", lease=self._name)
                waiting = True
            await asyncio.sleep(RENEW_EVERY_S)

    async def seize(self) -> None:
        """Take it from whoever has it, who then ends. For uninstalling alone."""
        for _ in range(10):
            self._seen = (None, 0.0)
            if await self._attempt(is_forced=True):
                return
            await asyncio.sleep(1)
        raise TryLater(f"Lease {self._name} could not be taken: try again")

    async def keep(self) -> None:
        """Renew it for ever; Fatal when that has not worked for too long, or somebody else has it."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            try:
                async with asyncio.timeout_at(renewed + GIVE_UP_S):
                    started = loop.time()
                    if not await self._attempt():
                        raise Fatal("another operator has taken the Lease")
                    renewed = started
            except TimeoutError as error:
                raise Fatal(f"the Lease could not be renewed for {GIVE_UP_S:.0f} s") from error
            except Fatal:
                raise
            except ForebayError as error:
                log.warning("the Lease could not be renewed", error=str(error))
                if loop.time() - renewed > GIVE_UP_S:
                    raise Fatal(f"the Lease could not be renewed for {GIVE_UP_S:.0f} s") from error

    async def release(self) -> None:
        """Give it up, so that the next one need not wait."""
        try:
            lease = await self._api.get(LEASES, self._namespace, self._name)
            if lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(LEASES, self._namespace, lease)
        except ForebayError as error:
            log.warning("the Lease could not be given up", error=str(error))

    async def _attempt(self, *, is_forced: bool = False) -> bool:
        """Take or renew it; whether it is ours now."""
        loop = asyncio.get_running_loop()
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: TID251 - for people; nobody compares it
        spec = {"holderIdentity": self._identity, "leaseDurationSeconds": DURATION_S, "renewTime": now}
        lease = self._held or await self._api.find(LEASES, self._namespace, self._name)
        if lease is None:
            body = {
                "apiVersion": LEASES.group_version,
                "kind": "Lease",
                "metadata": {"name": self._name, "namespace": self._namespace},
                "spec": spec | {"acquireTime": now},
            }
            return await self._written(self._api.create(LEASES, self._namespace, body))
        holder = lease["spec"].get("holderIdentity") or ""
        if lease["metadata"]["resourceVersion"] != self._seen[0]:
            self._seen = (lease["metadata"]["resourceVersion"], loop.time())
        patience = lease["spec"].get("leaseDurationSeconds", DURATION_S)
        if not is_forced and holder not in {"", self._identity} and loop.time() - self._seen[1] <= patience:
            return False
        taken = {"acquireTime": now} if holder != self._identity else {}
        lease["spec"] = lease["spec"] | spec | taken
        return await self._written(self._api.replace(LEASES, self._namespace, lease))

    async def _written(self, write: Any) -> bool:
        try:
            self._held = await write
        except (Conflict, NotFound):  # somebody else wrote it, or deleted it: the next attempt looks
            was_held, self._held = self._held is not None, None
            return was_held and await self._attempt()
        return True

"""Secrets are read when their contents are needed, and judged; what stays in memory is the verdict, never the contents."""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime

from forebay.pipeline.spec import Pipeline
from forebay.planning.credentials import checks, formats
from forebay.planning.credentials.checks import Contents, Verdict
from forebay.planning.credentials.formats import Wanted
from forebay_operator.api import SECRETS, Api, Body
from forebay_operator.world import World


async def read(api: Api, namespace: str, name: str) -> Contents | None:
    """What a Secret holds; None when there is none."""
    body = await api.find(SECRETS, namespace, name)
    return None if body is None else _contents(body)


def _contents(body: Body) -> dict[str, bytes]:
    return {key: base64.b64decode(text or "") for key, text in (body.get("data") or {}).items()}


def secrets_of(pipeline: Pipeline) -> frozenset[str]:
    """The names of all Secrets that matter to a Pipeline."""
    return frozenset(wanted.name for wanted in _wanted(pipeline))


def _wanted(pipeline: Pipeline) -> Iterator[Wanted]:
    yield from formats.wanted(pipeline)
    yield from formats.managed(pipeline)


class Judge:
    """Looks into a Secret when it has changed, and when time has made its certificates better or worse."""

    def __init__(self, api: Api, world: World) -> None:
        self._api = api
        self._world = world

    async def verdicts(self, pipeline: Pipeline, now: float) -> dict[Wanted, Verdict]:
        """On each Secret that the Pipeline needs.

        Args:
            pipeline: what needs them.
            now: seconds since the epoch.
        """
        moment = datetime.fromtimestamp(now, UTC)
        return {
            wanted: await self._verdict(pipeline.metadata.namespace, wanted, moment) for wanted in _wanted(pipeline)
        }

    async def _verdict(self, namespace: str, wanted: Wanted, now: datetime) -> Verdict:
        known = self._world.secret(namespace, wanted.name)
        if known is None:
            return checks.judged(wanted, None, now)
        verdict = known.verdicts.get(wanted.use)
        if verdict is not None and (verdict.until is None or now < verdict.until):
            return verdict
        body = await self._api.find(SECRETS, namespace, wanted.name)
        if body is None:  # its event is on the way
            return checks.judged(wanted, None, now)
        verdict = checks.judged(wanted, _contents(body), now)
        if self._world.digests(body) == known.digests:  # else it has just changed, and its event wakes another round
            known.verdicts[wanted.use] = verdict
        return verdict

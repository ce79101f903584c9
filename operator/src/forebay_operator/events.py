"""Events of Pipelines: what was done and why, where `kubectl describe` shows it."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from forebay.errors import ForebayError
from forebay.pipeline.names import API_VERSION
from forebay.planning import reporting
from forebay.planning.credentials.rotation import Issue, RemoveLogin
from forebay.planning.credentials.users import AddAcls, DeleteUser, RemoveAcls
from forebay.planning.reconciling import Apply, DeleteTopics, Release, Remove, ReplacePod, Scale, Step
from forebay.planning.reporting import Condition
from forebay.planning.topics import AddPartitions, AlterConfig, CreateTopic
from forebay_operator.api import EVENTS, Api

log = structlog.get_logger()

_LONGEST_NOTE = 1024
_REASONS: dict[type, str] = {
    CreateTopic: "TopicCreated",
    AddPartitions: "TopicGrown",
    AlterConfig: "TopicConfigured",
    DeleteTopics: "TopicsDeleted",
    Scale: "Scaled",
    Remove: "Removed",
    ReplacePod: "PodReplaced",
    Issue: "UserIssued",
    DeleteUser: "UserDeleted",
    AddAcls: "RightsGiven",
    RemoveAcls: "RightsTaken",
    RemoveLogin: "SecretDeleted",
}
"""Steps that users want to know of. Objects are applied by the dozen; of those only corrections are told."""


class Events:
    """Writes them; that one is lost is no failure."""

    def __init__(self, api: Api, identity: str) -> None:
        self._api = api
        self._identity = identity

    async def tell_step(self, pipeline: Mapping[str, Any], step: Step) -> None:
        """What was done."""
        match step:
            case Apply(_, "somebody changed it"):
                await self.tell(pipeline, "Corrected", str(step))
            case Release() if step.leaves_something:
                await self.tell(pipeline, "LeftBehind", str(step), is_warning=True)
            case _ if (reason := _REASONS.get(type(step))) is not None:
                await self.tell(pipeline, reason, str(step))

    async def tell_condition(self, pipeline: Mapping[str, Any], before: Mapping[str, Any], now: Condition) -> None:
        """The Pipeline became ready or stopped being so, or for another reason; or its scaling is kept from working."""
        if reporting.is_worth_an_event(before, now):
            is_warning = not now.is_good and now.reason not in reporting.PASSING
            await self.tell(pipeline, now.reason, now.message, is_warning=is_warning)

    async def tell(
        self,
        pipeline: Mapping[str, Any],
        reason: str,
        note: str,
        *,
        is_warning: bool = False,
        action: str = "Reconcile",
    ) -> None:
        """One Event."""
        metadata = pipeline["metadata"]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: TID251 - IO: an Event carries its time
        event = {
            "apiVersion": EVENTS.group_version,
            "kind": "Event",
            "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": metadata["namespace"]},
            "eventTime": now,
            "reportingController": "forebay.dev/operator",
            "reportingInstance": self._identity,
            "action": action,
            "reason": reason,
            "type": "Warning" if is_warning else "Normal",
            "note": note if len(note) <= _LONGEST_NOTE else f"{note[: _LONGEST_NOTE - 3]}...",
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": "Pipeline",
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
        }
        try:
            await self._api.create(EVENTS, metadata["namespace"], event)
        except ForebayError as error:
            log.warning("an Event could not be written", reason=reason, error=str(error))

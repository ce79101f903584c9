"""Proof that watches still deliver: a small object is changed every minute, and the change must come back as an event.

A watch that ends without an error, or whose connection was silently dropped, looks like a quiet cluster. Only when the
change was accepted and no event followed is the operator deaf; while Kubernetes does not answer it is not.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import structlog

from forebay.errors import ForebayError
from forebay.pipeline.names import GROUP, PIPELINE_LABEL
from forebay_operator import metrics
from forebay_operator.api import Api

log = structlog.get_logger()

NAME = "forebay-operator-canary"
EVERY_S = 60.0
DEAF_AFTER_S = 300.0
_BEAT = f"{GROUP}/beat"


class Canary:
    """Knows when a change was made, when it was heard of, and when anything was heard last."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._sung_at: float | None = None
        self._heard_at = time.monotonic()
        self._waiting_for: str | None = None

    def hear(self, kind: str, body: Mapping[str, Any]) -> None:
        """Something came from a watch."""
        self._heard_at = time.monotonic()
        metadata = body["metadata"]
        is_ours = kind == "ConfigMap" and (metadata["namespace"], metadata["name"]) == (self._namespace, NAME)
        if is_ours and metadata.get("annotations", {}).get(_BEAT) == self._waiting_for:
            self._waiting_for, self._sung_at = None, None

    @property
    def is_deaf(self) -> bool:
        """Whether a change that Kubernetes accepted was not heard of for too long."""
        return self._sung_at is not None and time.monotonic() - self._sung_at > DEAF_AFTER_S

    @property
    def silence_s(self) -> float:
        """Seconds since anything came from a watch."""
        return time.monotonic() - self._heard_at

    async def sing(self, api: Api) -> None:
        """For ever: change the object, wait a minute."""
        beat = 0
        while True:
            beat += 1
            text = f"{time.time():.0f}-{beat}"
            if self._waiting_for is None:
                self._waiting_for = text
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": NAME,
                    "labels": {PIPELINE_LABEL: "", "app.kubernetes.io/name": "forebay-operator"},
                    "annotations": {_BEAT: self._waiting_for},
                },
            }
            try:
                await api.apply(body, self._namespace)
            except ForebayError as error:
                log.warning("the canary could not be changed", error=str(error))
            else:
                if self._waiting_for is not None:  # the event may have been quicker than the answer
                    self._sung_at = self._sung_at or time.monotonic()
            metrics.WATCH_SILENCE.set(self.silence_s)
            await asyncio.sleep(EVERY_S)

"""The credentials of a replica: read from mounted files, watched, and changed while it runs.

A login changes in place: connections stay, and new ones use the new user (`kafka.clients`). Certificates cannot, for librdkafka
reads them once: then the replica is interrupted, which ends as a stop does, with a commit, and is begun again with new clients in
the same process. What is new is tried first: what Kafka refuses never replaces what works.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from forebay.errors import ForebayError, TryLater
from forebay.kafka import settings as kafka_settings
from forebay.kafka.admin import log_in
from forebay.kafka.clients import LOGIN, Login
from forebay.pipeline.spec import Pipeline, SecretRef, Stage
from forebay.planning.credentials import formats
from forebay.planning.credentials.formats import Use
from forebay.runtime.metrics import StageMetrics

log = structlog.get_logger()

EVERY_S = 2.0
"""The kubelet changes mounted files once a minute; reading them costs next to nothing."""
TRY_AGAIN_S = 15.0
"""What Kafka has refused is tried again, for a new user may take a moment to arrive, but not as often as an attack would."""

_LOGIN_KEYS = ("sasl.username", "sasl.password")
_MOST_READS = 10
_MOST_DIGITS = 15


@dataclass(frozen=True, slots=True)
class _Found:
    """What the files said at one time. Never shown: it holds credentials."""

    connection: kafka_settings.Properties = field(repr=False)
    generation: int | None
    expiries: Mapping[tuple[str, str], datetime]
    """Of certificates, by Secret and key."""

    @property
    def login(self) -> tuple[str, str]:
        username, password = (self.connection[key] for key in _LOGIN_KEYS)
        return username, password

    @property
    def rest(self) -> kafka_settings.Properties:
        """What cannot change in place."""
        return {key: value for key, value in self.connection.items() if key not in _LOGIN_KEYS}


class Credentials:
    """Of one replica. `connection` first, then `watched` around what uses it."""

    def __init__(
        self, pipeline: Pipeline, stage: Stage, secrets: kafka_settings.Secrets, metrics: StageMetrics
    ) -> None:
        self._pipeline, self._stage, self._secrets, self._metrics = pipeline, stage, secrets, metrics
        self._ref = kafka_settings.stage_login(pipeline, stage)
        self._used: _Found | None = None
        self._login: Login | None = None
        self._refused: _Found | None = None
        self._try_at = 0.0
        self._said: str | None = None

    def connection(self) -> kafka_settings.Properties:
        """Properties for all clients, whose login follows the files from now on. Raises MissingSecret."""
        found = self._read()
        if self._used is not None:
            self._metrics.rotated("new-clients")
        self._use(found)
        if self._ref is None:
            return found.connection
        self._login = Login(*found.login)
        return {**found.rest, LOGIN: self._login}

    @contextlib.contextmanager
    def watched(self, renew: Callable[[], None]) -> Iterator[None]:
        """Follow the files meanwhile, in a thread.

        Args:
            renew: called once, when what has changed needs new clients: end, and ask for `connection` again.
        """
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(EVERY_S):
                if self._look():
                    renew()
                    return

        kafka = self._pipeline.spec.kafka
        if kafka.tls is None and kafka.sasl is None:
            yield
            return
        thread = threading.Thread(target=watch, name="credentials", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()

    def _look(self) -> bool:
        """Take what is new into use; True when that needs new clients."""
        try:
            found = self._read()
        except ForebayError as error:  # what is in use goes on
            self._say(str(error))
            return False
        if self._used is None or found == self._used:
            return False
        if found == self._refused and time.monotonic() < self._try_at:
            return False
        if found.connection != self._used.connection:
            try:
                log_in(found.connection, timeout_s=0)
            except ForebayError as error:
                self._refused, self._try_at = found, time.monotonic() + TRY_AGAIN_S
                self._say(str(error))
                return False
        if found.rest != self._used.rest:
            log.info("certificates have changed: new clients")
            return True
        if self._login is not None and found.login != self._used.login:
            self._login.change(*found.login)
            self._metrics.rotated("in-place")
            log.info("login changed in place", user=found.login[0], generation=found.generation)
        self._use(found)
        return False

    def _use(self, found: _Found) -> None:
        self._used, self._refused, self._said = found, None, None
        if self._ref is not None:
            self._metrics.login(self._ref.name, found.generation, time.time())
        for (secret, key), end in found.expiries.items():
            self._metrics.certificate(secret, key, end.timestamp())

    def _say(self, reason: str) -> None:
        """Once per reason."""
        if reason != self._said:
            self._said = reason
            log.warning("the credentials in use stay", reason=reason)

    def _read(self) -> _Found:
        """All files as they were at one time: while they are being exchanged, two reads differ."""
        first = self._read_once()
        for _ in range(_MOST_READS):
            again = self._read_once()
            if again == first:
                return again
            first = again
        raise TryLater("the files of the Secrets change all the time: stop whoever writes them")

    def _read_once(self) -> _Found:
        connection = kafka_settings.stage_connection(self._pipeline, self._stage, self._secrets)
        return _Found(connection, self._generation(), self._expiries())

    def _generation(self) -> int | None:
        if self._ref is None or formats.GENERATION not in kafka_settings.keys_of(self._secrets, self._ref):
            return None
        text = kafka_settings.read_secret(self._secrets, self._ref, formats.GENERATION)
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else None

    def _expiries(self) -> dict[tuple[str, str], datetime]:
        if self._pipeline.spec.kafka.tls is None:
            return {}
        from forebay.planning.credentials import checks  # noqa: PLC0415 - 18 MB of memory, for those with certificates

        found = {}
        for wanted in formats.wanted_for_kafka(self._pipeline.spec.kafka):
            if wanted.use in {Use.AUTHORITY, Use.CERTIFICATE}:
                ref = SecretRef(name=wanted.name)
                keys = kafka_settings.keys_of(self._secrets, ref) & {formats.AUTHORITY, *_CERTIFICATE_KEYS}
                contents = {key: kafka_settings.read_secret(self._secrets, ref, key).encode() for key in keys}
                for key, end in checks.valid_until(wanted.use, contents).items():
                    found[wanted.name, key] = end
        return found


_CERTIFICATE_KEYS = frozenset(keys.certificate for keys in formats.CERTIFICATES)

"""From a Pipeline to librdkafka's properties.

Credentials come from mounted files (`<secrets>/<secret name>/<key>`) and go straight into the client's properties; those
dictionaries are never logged. The properties that exactly-once, ordering and the partition of a key depend on are set here
and cannot be overridden: the allow-list of `kafkaProperties` leaves them out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from forebay.errors import MissingSecret
from forebay.pipeline import names
from forebay.pipeline.spec import Batch, Delivery, Kafka, Pipeline, SecretRef, Stage
from forebay.planning.credentials import formats

Properties = dict[str, Any]

Secrets = Path | Mapping[str, Mapping[str, str]] | None
"""Where Secrets come from: a folder in which they are mounted, or their contents by name and key."""

TRANSACTION_TIMEOUT_MS = 15_000
"""The broker aborts a silent transaction after this; it also bounds how long a commit can block."""

MAX_MESSAGE_BYTES = 1_048_588
"""What a topic takes by default (`max.message.bytes`)."""

_ROOM_FOR_HEADERS = 16_384
"""A dead letter carries its source's value and headers of its own."""

_CLIENT: Properties = {
    "socket.keepalive.enable": True,
    "reconnect.backoff.max.ms": 5_000,
    "topic.metadata.refresh.interval.ms": 30_000,
    "allow.auto.create.topics": False,
    "statistics.interval.ms": 0,
    "log_level": 0,  # the client would write lines of its own to standard error; what matters comes as errors
}


def commit_interval_s(batch: Batch) -> float:
    """Seconds after which a transaction is committed: as the stage asks, but within a third of what the broker waits for it.

    The rest is for what has piled up and is still to be sent.
    """
    return min(batch.max_wait_ms, TRANSACTION_TIMEOUT_MS / 3) / 1000


def read_secret(secrets: Secrets, ref: SecretRef, key: str) -> str:
    """The content of one key of a Secret, without a final newline; MissingSecret names it and the cure."""
    if isinstance(secrets, Mapping):
        if ref.name not in secrets:
            raise MissingSecret(f"Secret {ref.name!r} does not exist: create it, with key {key!r}")
        if key not in secrets[ref.name]:
            raise MissingSecret(f"Secret {ref.name!r} has no key {key!r}: add it")
        return secrets[ref.name][key].removesuffix("\n")
    if secrets is None:
        raise MissingSecret(
            f"Secret {ref.name!r} is needed, but no folder with Secrets was given: "
            f"use --secrets DIR, with the file DIR/{ref.name}/{key}"
        )
    path = secrets / ref.name / key
    try:
        return path.read_text().removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise MissingSecret(f"key {key!r} of Secret {ref.name!r} cannot be read: {path}: {reason}") from error


def keys_of(secrets: Secrets, ref: SecretRef) -> frozenset[str]:
    """The keys that a Secret has; none where it cannot be read, which `read_secret` then tells."""
    if isinstance(secrets, Mapping):
        return frozenset(secrets.get(ref.name, ()))
    try:
        return frozenset(path.name for path in (secrets / ref.name).iterdir()) if secrets is not None else frozenset()
    except OSError:
        return frozenset()


def stage_connection(pipeline: Pipeline, stage: Stage, secrets: Secrets) -> Properties:
    """librdkafka properties that reach the brokers and log in as the stage's user."""
    return connection(pipeline.spec.kafka, secrets, login=stage_login(pipeline, stage))


def stage_login(pipeline: Pipeline, stage: Stage) -> SecretRef | None:
    """The Secret that a stage logs in with; None where it needs no login."""
    sasl = pipeline.spec.kafka.sasl
    if sasl is None:
        return None
    return sasl.secret_ref or SecretRef(name=names.login_secret(pipeline, stage))


def admin_connection(kafka: Kafka, secrets: Secrets) -> Properties:
    """Properties that reach the brokers and log in as the administrator, where one is named."""
    return connection(kafka, secrets, login=formats.administrator(kafka))


def connection(kafka: Kafka, secrets: Secrets, *, login: SecretRef | None) -> Properties:
    """Properties that reach the brokers and log in with a Secret."""
    properties: Properties = {**_CLIENT, "bootstrap.servers": kafka.bootstrap_servers}
    properties["security.protocol"] = _protocol(kafka)
    if kafka.tls and kafka.tls.ca_secret_ref:
        properties["ssl.ca.pem"] = read_secret(secrets, kafka.tls.ca_secret_ref, formats.AUTHORITY)
    if kafka.tls and kafka.tls.client_certificate_secret_ref:
        ref = kafka.tls.client_certificate_secret_ref
        keys = formats.certificate_keys(keys_of(secrets, ref))
        properties["ssl.certificate.pem"] = read_secret(secrets, ref, keys.certificate)
        properties["ssl.key.pem"] = read_secret(secrets, ref, keys.private_key)
    if kafka.sasl and login is not None:
        properties["sasl.mechanism"] = kafka.sasl.mechanism.value
        properties |= _login(secrets, login)
    return properties


def _protocol(kafka: Kafka) -> str:
    if kafka.sasl:
        return "SASL_SSL"
    return "SSL" if kafka.tls is not None else "PLAINTEXT"


def user_of(secrets: Secrets, ref: SecretRef) -> str:
    """The user of a login; without a key for it, it is called like the Secret."""
    has_name = formats.USERNAME in keys_of(secrets, ref)
    return read_secret(secrets, ref, formats.USERNAME) if has_name else ref.name


def _login(secrets: Secrets, ref: SecretRef) -> Properties:
    return {
        "sasl.username": user_of(secrets, ref),
        "sasl.password": read_secret(secrets, ref, formats.PASSWORD),
    }


def transactional_producer(
    connection: Properties,
    *,
    transactional_id: str,
    delivery: Delivery,
    overrides: dict[str, str],
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> Properties:
    """Properties of a producer whose records become visible transaction by transaction.

    `message.timeout.ms` must not exceed the transaction's time-out, which librdkafka checks. The queue holds a few
    transactions, so that back-pressure is felt as a full queue and not as memory.
    """
    return {
        **connection,
        "linger.ms": delivery.linger_ms,
        "batch.size": min(delivery.batch_bytes, max_message_bytes),
        "message.max.bytes": max_message_bytes + _ROOM_FOR_HEADERS,
        "batch.num.messages": 100_000,
        "compression.type": delivery.compression.value,
        "message.timeout.ms": min(delivery.timeout_ms, TRANSACTION_TIMEOUT_MS),
        "queue.buffering.max.messages": 200_000,
        "queue.buffering.max.kbytes": 131_072,
        **overrides,
        "transactional.id": transactional_id,
        "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        "partitioner": "murmur2_random",
    }


def plain_producer(connection: Properties, *, delivery: Delivery, overrides: dict[str, str]) -> Properties:
    """Properties of an idempotent producer without transactions: at least once, in order per partition."""
    return {
        **connection,
        "linger.ms": delivery.linger_ms,
        "batch.size": delivery.batch_bytes,
        "compression.type": delivery.compression.value,
        "message.timeout.ms": delivery.timeout_ms,
        "queue.buffering.max.messages": 100_000,
        **overrides,
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
    }


def group_consumer(connection: Properties, *, group_id: str, overrides: dict[str, str]) -> Properties:
    """Properties of a member of a consumer group that reads committed records only and commits by itself.

    Where to start without a commit, and what to do about an offset that is out of range, is the group reader's business:
    librdkafka is told to raise an error instead of jumping.
    """
    return {
        **connection,
        "fetch.min.bytes": 100_000,
        "fetch.wait.max.ms": 50,
        "queued.min.messages": 50_000,
        "queued.max.messages.kbytes": 32_768,
        "max.poll.interval.ms": 300_000,
        **overrides,
        "group.id": group_id,
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 3_000,
        "partition.assignment.strategy": "cooperative-sticky",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
    }


def assigned_consumer(connection: Properties, *, group_id: str = "forebay-unused") -> Properties:
    """Properties of a reader that chooses its partitions itself: changelogs, positions, checks. It commits nothing.

    It joins no group, but looks for the coordinator of one as long as it lives: better of one that the user may read.
    """
    return {
        **connection,
        "group.id": group_id,
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "check.crcs": True,
        "fetch.wait.max.ms": 50,
    }

"""The keys of Secrets, as Kubernetes, cert-manager and Strimzi name them: the one place for those who read and who check."""

from collections.abc import Container, Iterator
from enum import StrEnum
from typing import NamedTuple

from forebay.pipeline import names
from forebay.pipeline.spec import Kafka, Pipeline, SecretRef

AUTHORITY = "ca.crt"
"""Certificates of authorities that are trusted; several in one file are all trusted."""

USERNAME = "username"
"""Left out: the user is called like the Secret, which is what Strimzi does."""

PASSWORD = "password"  # noqa: S105 - the name of a key
GENERATION = "generation"
"""Counts the credentials of a managed user; other Secrets have none."""


class CertificateKeys(NamedTuple):
    """Where a client certificate and its private key stand."""

    certificate: str
    private_key: str


CERTIFICATES = (CertificateKeys("tls.crt", "tls.key"), CertificateKeys("user.crt", "user.key"))
"""Kubernetes and cert-manager, and Strimzi's KafkaUser."""


class Use(StrEnum):
    """What a Secret is for."""

    AUTHORITY = "authority"
    CERTIFICATE = "certificate"
    LOGIN = "login"
    DATABASE = "database"


ALTERNATIVES: dict[Use, tuple[frozenset[str], ...]] = {
    Use.AUTHORITY: (frozenset({AUTHORITY}),),
    Use.CERTIFICATE: tuple(frozenset(keys) for keys in CERTIFICATES),
    Use.LOGIN: (frozenset({PASSWORD}),),
    Use.DATABASE: (frozenset({"uri"}), frozenset({"host", "port", "dbname", "user", "password"})),
}
"""The sets of keys, one of which must be there."""


class Wanted(NamedTuple):
    """A Secret that a Pipeline names, and what for."""

    name: str
    use: Use


def wanted_for_kafka(kafka: Kafka) -> Iterator[Wanted]:
    """The Secrets that a connection to Kafka needs, the administrator's included."""
    if kafka.sasl is not None and kafka.sasl.secret_ref is not None:
        yield Wanted(kafka.sasl.secret_ref.name, Use.LOGIN)
    if kafka.admin_secret_ref is not None:
        yield Wanted(kafka.admin_secret_ref.name, Use.LOGIN)
    if kafka.tls is not None and kafka.tls.ca_secret_ref is not None:
        yield Wanted(kafka.tls.ca_secret_ref.name, Use.AUTHORITY)
    if kafka.tls is not None and kafka.tls.client_certificate_secret_ref is not None:
        yield Wanted(kafka.tls.client_certificate_secret_ref.name, Use.CERTIFICATE)


def administrator(kafka: Kafka) -> SecretRef | None:
    """The Secret of the login that the operator uses, if it logs in."""
    return kafka.admin_secret_ref or (kafka.sasl.secret_ref if kafka.sasl is not None else None)


def wanted(pipeline: Pipeline) -> tuple[Wanted, ...]:
    """Every Secret that the Pipeline names; those of managed users it does not name."""
    databases = (
        Wanted(sink.destination.postgres.secret_ref.name, Use.DATABASE)
        for sink in pipeline.spec.sinks
        if sink.destination.postgres is not None
    )
    return tuple(dict.fromkeys((*wanted_for_kafka(pipeline.spec.kafka), *databases)))


def managed(pipeline: Pipeline) -> tuple[Wanted, ...]:
    """The Secrets of managed users, one for each stage; none where users are not managed."""
    sasl = pipeline.spec.kafka.sasl
    if sasl is None or sasl.users is None:
        return ()
    return tuple(Wanted(names.login_secret(pipeline, stage), Use.LOGIN) for stage in pipeline.spec.stages)


def certificate_keys(present: Container[str]) -> CertificateKeys:
    """The pair of keys that a Secret has; the first pair where it has neither."""
    whole = (keys for keys in CERTIFICATES if keys.certificate in present and keys.private_key in present)
    return next(whole, CERTIFICATES[0])

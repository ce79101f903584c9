"""SCRAM users and ACLs in Kafka: what there is, and the steps of a plan. The only IO of `planning.credentials.users`.

Every call is bounded in time, touches exactly what it is given, and may be repeated. Errors are those of `admin`.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import KafkaError
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialsDescription,
    UserScramCredentialUpsertion,
)

from forebay.errors import Forbidden
from forebay.kafka import admin as administration
from forebay.kafka.admin import Admin, log_in
from forebay.kafka.errors import ADD_THE_ACL
from forebay.pipeline.spec import SaslMechanism
from forebay.planning.credentials import formats
from forebay.planning.credentials.users import Acl, AddAcls, DeleteUser, Present, RemoveAcls

_BindingT = TypeVar("_BindingT", AclBinding, AclBindingFilter)

_ITERATIONS = 4096
"""The least that Kafka takes: a password of 256 random bits needs no more against guessing."""

_PASSWORD_BYTES = 32

_MECHANISMS = {
    SaslMechanism.SCRAM_SHA_256: ScramMechanism.SCRAM_SHA_256,
    SaslMechanism.SCRAM_SHA_512: ScramMechanism.SCRAM_SHA_512,
}


def new_password() -> str:
    """Nobody's guess: 32 random bytes as text."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


class Users:
    """Users and their ACLs, changed through an administrator's connection."""

    def __init__(self, admin: Admin, mechanism: SaslMechanism = SaslMechanism.SCRAM_SHA_512) -> None:
        self._admin = admin
        self._mechanism = _MECHANISMS[mechanism]

    def present(self, names: Iterable[str]) -> Present:
        """Which of these users there are, and what they are allowed."""
        asked = sorted(names)
        found = self._described(asked)
        futures = [self._admin.client.describe_acls(_of_user(name), **self._bounds()) for name in asked]
        bindings = [binding for future in futures for binding in self._admin.answer(future, "read ACLs")]
        return Present(
            users=frozenset(name for name, description in found.items() if description is not None),
            acls=frozenset(_acl(each) for each in bindings if _is_known(each) and _allows(each)),
        )

    def take(self, step: AddAcls | RemoveAcls | DeleteUser) -> None:
        """Take one step of a plan."""
        match step:
            case AddAcls(acls):
                self.add(acls)
            case RemoveAcls(acls):
                self.remove(acls)
            case DeleteUser(user):
                self.delete(user)

    def issue(self, user: str, generation: int, connection: Mapping[str, Any]) -> dict[str, str]:
        """Give a user a new password that Kafka accepts: what the stage's Secret is to hold, by key.

        Args:
            user: its name.
            generation: which one of the stage's users it is, counted from the first.
            connection: properties of the administrator; the new login is tried with its addresses and certificates.
        """
        password = new_password()
        self.create(user, password)
        log_in({**connection, "sasl.username": user, "sasl.password": password})
        return {formats.USERNAME: user, formats.PASSWORD: password, formats.GENERATION: str(generation)}

    def create(self, user: str, password: str) -> None:
        """Make a user, or give one that exists another password."""
        credential = ScramCredentialInfo(self._mechanism, _ITERATIONS)
        self._alter(user, [UserScramCredentialUpsertion(user, credential, password.encode())], f"create user {user}")

    def delete(self, user: str) -> None:
        """Delete a user's credentials, of every mechanism; one that is gone is no error."""
        description = self._described([user])[user]
        for credential in description.scram_credential_infos if description is not None else ():
            self._alter(user, [UserScramCredentialDeletion(user, credential.mechanism)], f"delete user {user}")

    def add(self, acls: Sequence[Acl]) -> None:
        """Allow it; what is allowed already stays so."""
        futures = self._admin.client.create_acls([_worded(AclBinding, acl) for acl in acls], **self._bounds())
        for future in futures.values():
            self._admin.answer(future, "create ACLs")

    def remove(self, acls: Sequence[Acl]) -> None:
        """Allow exactly this no more; what was not allowed is no error."""
        futures = self._admin.client.delete_acls([_worded(AclBindingFilter, acl) for acl in acls], **self._bounds())
        for future in futures.values():
            self._admin.answer(future, "delete ACLs")

    def _described(self, names: Sequence[str]) -> dict[str, UserScramCredentialsDescription | None]:
        if not names:
            return {}
        self._check_rights()
        futures = self._admin.client.describe_user_scram_credentials(list(names), **self._bounds())
        assert isinstance(futures, dict)  # noqa: S101 - so it is when names are given
        missing = KafkaError.RESOURCE_NOT_FOUND
        return {name: self._admin.answer(each, f"read user {name}", done=missing) for name, each in futures.items()}

    def _check_rights(self) -> None:
        """Forbidden when users and ACLs may not be read.

        Asked first, because without the right confluent-kafka 2.16 gives no ACLs instead of an error, and aborts the process
        on Kafka's answer about users (`munmap_chunk(): invalid pointer`).
        """
        cluster = self._admin.client.describe_cluster(include_authorized_operations=True, **self._bounds())
        operations = self._admin.answer(cluster, "describe the cluster").authorized_operations or []
        if not {AclOperation.DESCRIBE, AclOperation.ALL}.intersection(operations):
            raise Forbidden(f"the user may not read users and ACLs: {ADD_THE_ACL}")

    def _alter(self, user: str, changes: list[Any], doing: str) -> None:
        futures = self._admin.client.alter_user_scram_credentials(changes, **self._bounds())
        self._admin.answer(futures[user], doing, done=KafkaError.RESOURCE_NOT_FOUND)

    @staticmethod
    def _bounds() -> dict[str, float]:
        return {"request_timeout": administration.REQUEST_TIMEOUT_S}


def _principal(user: str) -> str:
    return f"User:{user}"


def _pattern(acl: Acl) -> ResourcePatternType:
    return ResourcePatternType.PREFIXED if acl.is_prefix else ResourcePatternType.LITERAL


def _of_user(user: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]  # so the client spells "any"
        ResourcePatternType.ANY,
        _principal(user),
        None,  # type: ignore[arg-type]
        AclOperation.ANY,
        AclPermissionType.ANY,
    )


def _worded(kind: type[_BindingT], acl: Acl) -> _BindingT:
    """The ACL in the client's words: as one to make, or as a filter that finds exactly that one."""
    return kind(
        ResourceType[acl.resource],
        acl.name,
        _pattern(acl),
        _principal(acl.user),
        acl.host,
        AclOperation[acl.operation],
        AclPermissionType.ALLOW,
    )


def _acl(binding: AclBinding) -> Acl:
    return Acl(
        user=binding.principal.removeprefix("User:"),
        operation=AclOperation(binding.operation).name,
        resource=ResourceType(binding.restype).name,
        name=binding.name,
        is_prefix=binding.resource_pattern_type is ResourcePatternType.PREFIXED,
        host=binding.host,
    )


def _is_known(binding: AclBinding) -> bool:
    """Whether this client has a word for what it is about; the rights that it does not know nobody gives here."""
    return binding.restype is not ResourceType.UNKNOWN and binding.operation is not AclOperation.UNKNOWN


def _allows(binding: AclBinding) -> bool:
    return binding.permission_type is AclPermissionType.ALLOW

"""From options to Kafka's own configuration: functions of values, so that every property can be read (and tested) here.

Paths inside the broker's folder are relative (Java runs in it): Kafka splits `log.dirs` at commas, and a folder's name
may hold one.
"""

import base64
import hashlib
import os
from collections.abc import Mapping
from typing import NamedTuple

from forebay_cli.embedded_kafka.options import BrokerOptions, Membership, Security

NODE_ID = 1
HOST = "127.0.0.1"
DATA_FOLDER = "data"
SCRAM_ROUNDS = 4096
SCRAM_MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512")

BASE_PROPERTIES: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": str(NODE_ID),
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "log.dirs": DATA_FOLDER,
    "auto.create.topics.enable": "false",
    # One broker cannot hold a second replica, and few partitions make the first transaction quick.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "50",
    # After a crash the broker may register again only once its former session is over (9 s by default).
    "broker.session.timeout.ms": "5000",
    "broker.heartbeat.interval.ms": "1000",
    # The log cleaner takes this from the heap at once; the default is 128 MiB.
    "log.cleaner.dedupe.buffer.size": str(32 << 20),
}


class Ports(NamedTuple):
    """The loopback ports of one broker; the secured ones are None without Security."""

    plain: int
    controller: int
    sasl_ssl: int | None = None
    ssl: int | None = None

    def by_listener(self) -> dict[str, int]:
        """Return the port of every listener in use, by Kafka's name of the listener (which is also its protocol)."""
        named = {"PLAINTEXT": self.plain, "CONTROLLER": self.controller, "SASL_SSL": self.sasl_ssl, "SSL": self.ssl}
        return {name: port for name, port in named.items() if port is not None}


def broker_properties(options: BrokerOptions, ports: Ports) -> dict[str, str]:
    """Return the complete server.properties of a broker on these ports."""
    addresses = {name: f"{name}://{HOST}:{port}" for name, port in ports.by_listener().items()}
    return {
        **BASE_PROPERTIES,
        "listeners": ",".join(addresses.values()),
        "advertised.listeners": ",".join(address for name, address in addresses.items() if name != "CONTROLLER"),
        "listener.security.protocol.map": ",".join(
            f"{name}:{'PLAINTEXT' if name == 'CONTROLLER' else name}" for name in addresses
        ),
        **_quorum_properties(options.membership, ports),
        **(_security_properties(options.security) if options.security else {}),
        **options.properties,
    }


def _quorum_properties(membership: Membership | None, ports: Ports) -> dict[str, str]:
    if membership is None:
        return {"controller.quorum.bootstrap.servers": f"{HOST}:{ports.controller}"}
    voters = (f"{node}@{HOST}:{port}" for node, port in membership.controller_ports.items())
    return {"node.id": str(membership.node_id), "controller.quorum.voters": ",".join(voters)}


def _security_properties(security: Security) -> dict[str, str]:
    scram_login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    properties = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(security.key_store.resolve()),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(security.trust_store.resolve()),
        "listener.name.ssl.ssl.client.auth": "requested",
        "sasl.enabled.mechanisms": ",".join(("PLAIN", *SCRAM_MECHANISMS)),
        "listener.name.sasl_ssl.plain.sasl.jaas.config": _plain_login(security.plain_users),
        **{f"listener.name.sasl_ssl.{name.lower()}.sasl.jaas.config": scram_login for name in SCRAM_MECHANISMS},
        "connections.max.reauth.ms": str(security.max_reauth_ms),
    }
    if security.authorize:
        properties["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
        properties["super.users"] = ";".join(("User:ANONYMOUS", *security.super_users))
    return properties


def _plain_login(users: Mapping[str, str]) -> str:
    entries = "".join(f" user_{name}={quoted(password)}" for name, password in users.items())
    return f"org.apache.kafka.common.security.plain.PlainLoginModule required{entries};"


def scram_arguments(security: Security | None) -> list[str]:
    """Return the arguments of StorageTool that create the SCRAM users."""
    users = security.scram_users if security else {}
    return [
        argument
        for mechanism in SCRAM_MECHANISMS
        for name, password in users.items()
        for argument in ("--add-scram", f"{mechanism}=[{_scram_credential(mechanism, name, password)}]")
    ]


def _scram_credential(mechanism: str, name: str, password: str) -> str:
    """Return the credential already salted, because StorageTool cannot read a comma in a password."""
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac(
        mechanism.removeprefix("SCRAM-").replace("-", ""), password.encode(), salt, SCRAM_ROUNDS
    )
    salt_text, salted_text = (base64.b64encode(part).decode() for part in (salt, salted))
    return f'name={name},iterations={SCRAM_ROUNDS},salt="{salt_text}",saltedpassword="{salted_text}"'


def quoted(text: str) -> str:
    """Return the text in double quotes, as JAAS and Java's argument files read it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def render_properties(properties: Mapping[str, str]) -> str:
    """Return the text of a Java .properties file, ASCII only."""
    return "".join(f"{_escaped(key, ' =:#!')}={_escaped(value, '')}\n" for key, value in properties.items())


def _escaped(text: str, separators: str) -> str:
    body = "".join(_escaped_character(character, separators) for character in text)
    return "\\" + body if body.startswith(" ") else body


def _escaped_character(character: str, separators: str) -> str:
    if character == "\\" or character in separators:
        return "\\" + character
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))

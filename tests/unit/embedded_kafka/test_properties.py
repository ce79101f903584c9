"""The broker's configuration as a pure function of options and ports."""

from pathlib import Path

import pytest

from forebay_cli.embedded_kafka import BrokerOptions, Membership, Security
from forebay_cli.embedded_kafka.properties import (
    Ports,
    broker_properties,
    quoted,
    render_properties,
    scram_arguments,
)

SECURITY = Security(
    key_store=Path("/pki/broker.pem"),
    trust_store=Path("/pki/ca.pem"),
    plain_users={"ann": 'p"w\\'},
    scram_users={"bob": "b,ob"},
)


def test_a_plain_broker_listens_on_loopback_only_and_advertises_no_controller() -> None:
    properties = broker_properties(BrokerOptions(), Ports(20001, 20002))

    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002"
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:20001"
    assert properties["listener.security.protocol.map"] == "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
    assert properties["controller.quorum.bootstrap.servers"] == "127.0.0.1:20002"
    assert properties["auto.create.topics.enable"] == "false"
    assert "authorizer.class.name" not in properties


def test_security_adds_two_listeners_and_the_logins_of_its_users() -> None:
    properties = broker_properties(BrokerOptions(security=SECURITY), Ports(1, 2, 3, 4))

    assert properties["advertised.listeners"] == ("PLAINTEXT://127.0.0.1:1,SASL_SSL://127.0.0.1:3,SSL://127.0.0.1:4")
    assert properties["listener.name.sasl_ssl.plain.sasl.jaas.config"].endswith(r' required user_ann="p\"w\\";')
    assert properties["listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config"].endswith("ScramLoginModule required;")
    assert properties["listener.name.ssl.ssl.client.auth"] == "requested"
    assert "authorizer.class.name" not in properties


def test_an_authorizer_leaves_the_plain_listener_to_the_administrator() -> None:
    security = Security(key_store=Path("k"), trust_store=Path("t"), authorize=True, super_users=("User:root",))

    properties = broker_properties(BrokerOptions(security=security), Ports(1, 2, 3, 4))

    assert properties["super.users"] == "User:ANONYMOUS;User:root"


def test_a_member_of_a_cluster_knows_every_voter() -> None:
    membership = Membership(cluster_id="abc", node_id=2, controller_ports={1: 20001, 2: 20002, 3: 20003})

    properties = broker_properties(BrokerOptions(membership=membership), Ports(20000, 20002))

    assert properties["node.id"] == "2"
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:20001,2@127.0.0.1:20002,3@127.0.0.1:20003"
    assert "controller.quorum.bootstrap.servers" not in properties


def test_properties_of_the_caller_win() -> None:
    options = BrokerOptions(properties={"num.partitions": "7", "offsets.topic.num.partitions": "9"})

    properties = broker_properties(options, Ports(1, 2))

    assert (properties["num.partitions"], properties["offsets.topic.num.partitions"]) == ("7", "9")


def test_scram_users_are_made_for_both_mechanisms_without_their_passwords() -> None:
    flag, sha256, _, sha512 = scram_arguments(SECURITY)

    assert flag == "--add-scram"
    assert sha256.startswith('SCRAM-SHA-256=[name=bob,iterations=4096,salt="')
    assert sha512.startswith('SCRAM-SHA-512=[name=bob,iterations=4096,salt="')
    assert "b,ob" not in sha256 + sha512
    assert scram_arguments(None) == []


def test_passwords_are_not_in_the_representation() -> None:
    assert "b,ob" not in repr(BrokerOptions(security=SECURITY))
    assert 'p"w' not in repr(SECURITY)


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("a.b", "c=d:e", "a.b=c=d:e\n"),
        ("a key", "v", "a\\ key=v\n"),
        ("k", " leading", "k=\\ leading\n"),
        ("k", "back\\slash", "k=back\\\\slash\n"),
        ("k", "two\nlines", "k=two\\u000alines\n"),
        ("k", "é😀", "k=\\u00e9\\ud83d\\ude00\n"),
    ],
)
def test_a_properties_file_holds_any_text(key: str, value: str, line: str) -> None:
    assert render_properties({key: value}) == line


def test_quoting_escapes_what_would_end_it() -> None:
    assert quoted('a"b\\c') == r'"a\"b\\c"'

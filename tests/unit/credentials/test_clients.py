"""A login reaches the clients that live and those that are made later, and keeps none alive."""

import gc

from forebay.kafka import clients
from forebay.kafka.clients import LOGIN, Login


class Client:
    """Stands for a client of librdkafka, which does not tell what it logs in with."""

    def __init__(self, properties) -> None:
        self.properties = properties
        self.changed = []

    def set_sasl_credentials(self, username, password) -> None:
        if self.properties.get("closed"):
            raise RuntimeError("closed")
        self.changed.append((username, password))


def test_a_change_reaches_clients_that_live_and_those_made_later():
    login = Login("a", "old")
    before, closed = login.make(Client, {}), login.make(Client, {"closed": True})
    login.change("b", "new")
    after = login.make(Client, {"sasl.username": "stale"})

    assert (before.properties["sasl.username"], before.properties["sasl.password"]) == ("a", "old")
    assert (before.changed, closed.changed, after.changed) == ([("b", "new")], [], [])
    assert (after.properties["sasl.username"], after.properties["sasl.password"]) == ("b", "new")


def test_a_login_keeps_no_client_alive_and_shows_no_password():
    login = Login("a", "canary")
    client = login.make(Client, {})
    del client
    gc.collect()

    assert list(login._clients) == []
    assert "canary" not in repr(login)


def test_real_clients_take_part():
    login = Login("a", "old")
    sasl = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "bootstrap.servers": "127.0.0.1:1",
        LOGIN: login,
    }
    made = [
        clients.producer({**sasl, "log_level": 0}),
        clients.consumer({**sasl, "log_level": 0, "group.id": "g"}),
        clients.admin({**sasl, "log_level": 0}),
    ]
    made[1].close()
    login.change("b", "new")

    assert set(login._clients) == set(made)

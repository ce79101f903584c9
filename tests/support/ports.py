"""Ports for brokers that start a few seconds after their ports were chosen."""

import os

from forebay_cli.embedded_kafka.broker import PORT_RANGE, free_ports

WORKERS = 16


def own_ports(count: int) -> list[int]:
    """So many free ports that no other worker of the same run of pytest draws meanwhile."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return free_ports(count, among=PORT_RANGE[worker % WORKERS :: WORKERS])

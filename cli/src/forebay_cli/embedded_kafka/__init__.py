"""A real Apache Kafka on this machine, with nothing but Python installed.

`EmbeddedKafka.start(folder)` runs one KRaft node on loopback ports, with its data and log in the folder; starting again
on the same folder continues the same cluster. It ends with the process that started it, however that one ends.
"""

from forebay_cli.embedded_kafka.broker import EmbeddedKafka
from forebay_cli.embedded_kafka.errors import EmbeddedKafkaError
from forebay_cli.embedded_kafka.install import KAFKA_VERSION, ensure_installed
from forebay_cli.embedded_kafka.options import BrokerOptions, Membership, Security

__all__ = [
    "KAFKA_VERSION",
    "BrokerOptions",
    "EmbeddedKafka",
    "EmbeddedKafkaError",
    "Membership",
    "Security",
    "ensure_installed",
]

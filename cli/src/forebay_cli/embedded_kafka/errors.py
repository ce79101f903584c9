"""What a user is told when the embedded broker cannot serve."""


class EmbeddedKafkaError(Exception):
    """The embedded Kafka cannot be installed, started or kept running; the message is one line with cause and cure."""


class PortTakenError(EmbeddedKafkaError):
    """A port that the broker was to listen on belongs to another program."""

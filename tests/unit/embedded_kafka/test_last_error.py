"""What is quoted from the broker's log when it ends."""

import pytest

from forebay_cli.embedded_kafka.broker import last_error


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", "it left no word in its log"),
        ("starting\nKilled\n", "Killed"),
        ("[main] ERROR kafka.Kafka$ - Exiting\n[main] INFO bye\n", "kafka.Kafka$ - Exiting"),
        (
            (
                "[main] ERROR kafka.Kafka$ - Exiting Kafka due to fatal exception during startup.\n"
                "org.apache.kafka.common.KafkaException: Socket server failed to bind.\n"
                "\tat kafka.network.Acceptor.open(SocketServer.scala:1)\n"
                "Caused by: java.net.BindException: Address already in use\n"
                "\t... 11 more\n"
            ),
            "Address already in use",
        ),
        (
            'Exception in thread "main" org.apache.kafka.common.config.ConfigException: Invalid value 0\n',
            "Invalid value 0",
        ),
        (
            "Error occurred during initialization of VM\nToo small maximum heap\n",
            "occurred during initialization of VM",
        ),
    ],
)
def test_the_cause_is_preferred_to_the_error_and_the_error_to_the_last_line(log: str, expected: str) -> None:
    assert last_error(log) == expected

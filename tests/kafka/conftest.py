"""One real broker for all tests here; each test names its own topics."""

import pytest

from forebay_cli.embedded_kafka import EmbeddedKafka


@pytest.fixture(scope="session")
def kafka(tmp_path_factory):
    with EmbeddedKafka.start(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker

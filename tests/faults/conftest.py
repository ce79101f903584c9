"""One real broker for all tests here, with a second listener behind a proxy, and the two sizes of a fault."""

from dataclasses import dataclass

import pytest
from ports import own_ports
from proxy import Proxy, second_listener

from forebay_cli.embedded_kafka import BrokerOptions, EmbeddedKafka, Membership
from forebay_cli.embedded_kafka.broker import new_cluster_id

pytest.register_assert_rewrite("world", "load", "topics")  # so that they tell what they found

QUICK_BROKER = {
    # Look for transactions that have timed out every second instead of every ten.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of a fault a test makes."""

    kills: int
    outage_s: float
    storm_rounds: int


QUICK = Scale(kills=2, outage_s=20, storm_rounds=2)
LONG = Scale(kills=20, outage_s=600, storm_rounds=36)


def pytest_collection_modifyitems(items):
    """Begin the long cases first, each in a process of its own: each is given two tests to begin with."""
    long = [item for item in items if item.get_closest_marker("long")]
    quick = [item for item in items if item not in long]
    pairs = [each for pair in zip(long, quick, strict=False) for each in pair]
    items[:] = pairs + long[len(quick) :] + quick[len(long) :]


@pytest.fixture(params=[pytest.param(QUICK, id="quick"), pytest.param(LONG, id="long", marks=pytest.mark.long)])
def scale(request):
    return request.param


@pytest.fixture(scope="session")
def proxy_and_kafka(tmp_path_factory):
    """The broker tells clients of its second listener to connect to the proxy; all others reach it directly."""
    plain, controller, behind = own_ports(3)
    proxy = Proxy(behind)
    options = BrokerOptions(
        port=plain,
        start_timeout_seconds=180,
        membership=Membership(cluster_id=new_cluster_id(), node_id=1, controller_ports={1: controller}),
        properties=QUICK_BROKER | second_listener(proxy, plain=plain, behind=behind, controller=controller),
    )
    with EmbeddedKafka.start(tmp_path_factory.mktemp("kafka"), options=options) as broker:
        yield proxy, broker
    proxy.close()


@pytest.fixture
def kafka(proxy_and_kafka):
    """The broker, reached directly; it runs again after a test that has killed it."""
    _, broker = proxy_and_kafka
    yield broker
    if not broker.is_alive():
        broker.restart()


@pytest.fixture
def proxy(proxy_and_kafka):
    """What stands before the broker for a client that is told `proxy.address`; it passes everything on at first."""
    proxy, _ = proxy_and_kafka
    proxy.heal()
    proxy.requests.clear()
    yield proxy
    proxy.heal()

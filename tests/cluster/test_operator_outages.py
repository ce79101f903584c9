"""What the operator lives on goes away for a while: Kubernetes, Kafka, a definition of its own version."""

import copy
import json
import time
from urllib.parse import urlsplit

import kube
import pytest
import yaml
from operated import SPEC, Operated, quiet
from ports import own_ports
from proxy import StreamProxy
from services import until

from forebay.pipeline import schema
from forebay_cli.embedded_kafka import BrokerOptions, EmbeddedKafka, Membership
from forebay_cli.embedded_kafka.broker import new_cluster_id

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def proxy_and_kafka(tmp_path_factory):
    """A broker that tells its clients to come through the proxy."""
    plain, controller = own_ports(2)
    proxy = StreamProxy(plain)
    options = BrokerOptions(
        port=plain,
        membership=Membership(cluster_id=new_cluster_id(), node_id=1, controller_ports={1: controller}),
        properties={"advertised.listeners": f"PLAINTEXT://{proxy.address}"},
    )
    with EmbeddedKafka.start(tmp_path_factory.mktemp("kafka"), options=options) as broker:
        yield proxy, broker
    proxy.close()


@pytest.fixture
def to_kafka(proxy_and_kafka):
    proxy, _ = proxy_and_kafka
    yield proxy
    proxy.heal()


@pytest.fixture
def operated(to_kafka, tmp_path):
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=schema.crd_yaml())
    with Operated(to_kafka.address, tmp_path) as place:
        yield place


@pytest.fixture
def to_kubernetes(operated):
    """What stands between the operator and the API server; people's kubectl goes directly."""
    config = yaml.safe_load(kube.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    cluster = config["clusters"][0]["cluster"]
    server = urlsplit(cluster["server"])
    proxy = StreamProxy(server.port or 443, server.hostname)
    cluster.pop("certificate-authority-data", None)  # it need not know the proxy's address
    cluster |= {"server": f"https://{proxy.address}", "insecure-skip-tls-verify": True}
    file = operated.folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    operated.kubeconfig = str(file)
    yield proxy
    proxy.close()


@pytest.mark.parametrize("how", ["cut", "hold"])
def test_kubernetes_is_away_for_a_minute(operated, to_kubernetes, how):
    """Who cannot renew its Lease ends; the next one undoes nothing and puts right what happened meanwhile."""
    process = operated.start()
    operated.apply()
    operated.until_deployed()
    before = {name: operated.kubectl("get", name, "-o", "jsonpath={.metadata.uid}") for name in workloads(operated)}

    away_since = time.monotonic()
    getattr(to_kubernetes, how)()
    operated.kubectl("delete", "service", "sensors-enrich")
    operated.apply(sinks=[])
    assert process.wait(60) == 1
    time.sleep(max(0.0, away_since + 60 - time.monotonic()))
    to_kubernetes.heal()
    operated.start()

    until(lambda: "service/sensors-enrich" in operated.names("service"), what="the Service is back", deadline_s=90)
    until(lambda: "deployment.apps/sensors-store" not in workloads(operated), what="the sink is gone", deadline_s=90)
    for name in workloads(operated):
        assert operated.kubectl("get", name, "-o", "jsonpath={.metadata.uid}") == before[name]
    assert len(operated.kafka_topics()) == 6


def test_without_a_lease_it_outlives_the_api_server(operated, to_kubernetes):
    process = operated.start(ELECT="false")
    operated.apply()
    operated.until_deployed()
    to_kubernetes.cut()
    operated.kubectl("delete", "service", "sensors-enrich")
    time.sleep(60)
    assert process.poll() is None
    to_kubernetes.heal()

    until(lambda: "service/sensors-enrich" in operated.names("service"), what="the Service is back", deadline_s=60)
    assert process.poll() is None


@pytest.mark.parametrize("steps", [1, 4, 7, 10, 13])
def test_kafka_goes_after_any_step_and_comes_back(operated, to_kafka, steps):
    operated.start()
    operated.until_leading()
    operated.apply()
    until(lambda: len(operated.steps()) >= steps, what=f"{steps} steps were taken", every_s=0.01)
    to_kafka.cut()
    told = operated.until_condition("Ready", "KafkaUnreachable", deadline_s=60)
    before = operated.steps()
    assert quiet(10, operated.steps) == before, "without Kafka nothing is decided"
    assert f"cannot reach Kafka at {to_kafka.address}" in told["message"]
    to_kafka.heal()

    operated.until_deployed()
    assert len(operated.kafka_topics()) == 6
    until(lambda: len(operated.pipeline()["status"].get("managedTopics", ())) == 6, what="the ledger is whole")


def test_a_definition_of_another_version_changes_nothing_that_runs(operated):
    """The definition is replaced by one of an older version, without some fields, and then by today's again.

    What changes in the second thereafter may still be told in the older version's form, without the new field: lists tell all.
    """
    operated.start(RELIST_S="10")
    operated.apply()
    operated.until_deployed()
    uid = operated.get("statefulset", "sensors-enrich")["metadata"]["uid"]
    older = copy.deepcopy(schema.crd())
    (version,) = older["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["deletionPolicy"]
    older["metadata"].setdefault("labels", {})["app.kubernetes.io/version"] = "0.0.1"
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(older))
    operated.apply(sinks=[])
    until(lambda: "deployment.apps/sensors-store" not in workloads(operated), what="the sink is gone", deadline_s=60)
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=schema.crd_yaml())

    def is_taken() -> bool:
        operated.apply(sinks=SPEC["sinks"], deletionPolicy="Delete")
        return "deletionPolicy" in operated.pipeline()["spec"]

    until(is_taken, what="the API server knows the field again", deadline_s=30, every_s=1)
    operated.until_deployed()
    until(lambda: operated.pipeline()["metadata"].get("finalizers"), what="the new field is obeyed", deadline_s=60)
    assert operated.get("statefulset", "sensors-enrich")["metadata"]["uid"] == uid


def workloads(operated) -> set[str]:
    return operated.names("statefulset,deployment")

"""Three brokers on this machine, every topic on all of them: what production looks like when one dies.

Before each stands a proxy, for a client that is told `proxied_servers`.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from ports import own_ports
from proxy import Proxy, second_listener
from services import until

from forebay_cli.embedded_kafka import BrokerOptions, EmbeddedKafka, Membership
from forebay_cli.embedded_kafka.broker import new_cluster_id

NODES = (1, 2, 3)
PARTITIONS = 6
"""Of the internal topics."""

PROPERTIES = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "offsets.topic.num.partitions": str(PARTITIONS),
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "transaction.state.log.num.partitions": str(PARTITIONS),
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "unclean.leader.election.enable": "false",
}


class Cluster:
    """Use it as a context manager; `brokers` are its nodes by id, and so are `proxies`."""

    def __init__(self, folder: Path) -> None:
        cluster_id = new_cluster_id()
        ports = own_ports(3 * len(NODES))
        plain, behind, controllers = ({node: ports.pop() for node in NODES} for _ in range(3))
        self.proxies = {node: Proxy(behind[node]) for node in NODES}
        options = {
            node: BrokerOptions(
                port=plain[node],
                membership=Membership(cluster_id=cluster_id, node_id=node, controller_ports=controllers),
                heap_mebibytes=384,
                properties=PROPERTIES
                | second_listener(
                    self.proxies[node], plain=plain[node], behind=behind[node], controller=controllers[node]
                ),
                start_timeout_seconds=120,
            )
            for node in NODES
        }
        with ThreadPoolExecutor(len(NODES)) as pool:
            started = pool.map(lambda node: EmbeddedKafka.start(folder / str(node), options=options[node]), NODES)
            self.brokers = dict(zip(NODES, started, strict=True))
        self._make_internal_topics()

    def _make_internal_topics(self) -> None:
        """The first client that asks for a coordinator makes them; then it is known where each will be."""
        Producer({"bootstrap.servers": self.bootstrap_servers, "transactional.id": "first"}).init_transactions(60)
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": "first"})

        def has_coordinator() -> bool:
            try:
                consumer.committed([TopicPartition("first", 0)], timeout=5)
            except KafkaException:
                return False
            return True

        until(has_coordinator, what="the group coordinator is found")
        consumer.close()

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    @property
    def proxied_servers(self) -> str:
        return ",".join(proxy.address for proxy in self.proxies.values())

    def coordinator_of_group(self, group: str) -> int:
        """The node that keeps the group's offsets."""
        return self._leader("__consumer_offsets", group)

    def coordinator_of_transactions(self, transactional_id: str) -> int:
        """The node that decides over the transactions of this id."""
        return self._leader("__transaction_state", transactional_id)

    def is_whole(self, topic: str) -> bool:
        """Whether every replica of the topic and of the internal ones is in sync."""
        found = AdminClient({"bootstrap.servers": self.bootstrap_servers}).list_topics(timeout=20).topics
        names = (topic, "__consumer_offsets", "__transaction_state")
        return all(len(each.isrs) == len(NODES) for name in names for each in found[name].partitions.values())

    def _leader(self, topic: str, key: str) -> int:
        found = AdminClient({"bootstrap.servers": self.bootstrap_servers}).list_topics(topic, timeout=20)
        return found.topics[topic].partitions[(java_hash(key) & 0x7FFFFFFF) % PARTITIONS].leader

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_rest) -> None:
        for broker in self.brokers.values():
            broker.kill()
        for proxy in self.proxies.values():
            proxy.close()


def java_hash(text: str) -> int:
    """String.hashCode, by which Kafka finds the coordinator of a name."""
    result = 0
    for character in text:
        result = (31 * result + ord(character)) & 0xFFFFFFFF
    return result

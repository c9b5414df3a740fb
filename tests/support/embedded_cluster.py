"""A Kafka cluster of several embedded brokers."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kafka_http.demo.broker_properties import BrokerNode
from kafka_http.demo.embedded_kafka import EmbeddedKafka, new_cluster_id
from kafka_http.demo.local_resources import free_ports


class EmbeddedCluster:
    """Brokers 1, 2, …; each can be stopped, killed and started separately.

    Kafka's own topics, and topics that are created with defaults, are replicated to all brokers, and the cluster works
    with one broker less. With `one_controller`, broker 1 alone is a controller, so that the others can all be away.
    Raises `DemoError`.
    """

    def __init__(self, directory: Path, brokers: int = 3, *, one_controller: bool = False) -> None:
        ports = free_ports(2 * brokers)
        voters = {number: ports.pop() for number in range(1, brokers + 1)}
        cluster_id = new_cluster_id()
        self.brokers = {}
        """By node id."""
        for number, controller_port in voters.items():
            port = ports.pop()
            properties = _under_one_controller(number, voters, port) if one_controller else {}
            node = BrokerNode(
                directory / f"kafka-{number}", port, controller_port, number, voters, properties=properties
            )
            self.brokers[number] = EmbeddedKafka(node, cluster_id=cluster_id)

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    def start(self) -> None:
        """Start all brokers that do not run and wait until each knows all of them."""
        try:
            self._for_each(EmbeddedKafka.launch)
            self._for_each(lambda broker: broker.wait_until_ready(brokers=len(self.brokers)))
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        self._for_each(EmbeddedKafka.stop)

    def kill(self) -> None:
        self._for_each(EmbeddedKafka.kill)

    def _for_each(self, action: Callable[[EmbeddedKafka], None]) -> None:
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(action, self.brokers.values()))


def _under_one_controller(number: int, voters: Mapping[int, int], port: int) -> dict[str, object]:
    """The settings of a broker of a cluster in which broker 1 is the only controller."""
    properties: dict[str, object] = {"controller.quorum.voters": f"1@127.0.0.1:{voters[1]}"}
    if number > 1:
        properties |= {"process.roles": "broker", "listeners": f"PLAINTEXT://127.0.0.1:{port}"}
    return properties

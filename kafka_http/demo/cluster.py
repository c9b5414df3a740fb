"""Several brokers that are one cluster, for the tests."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kafka_http.demo.directory import new_cluster_id
from kafka_http.demo.embedded import EmbeddedKafka
from kafka_http.demo.ports import free_ports
from kafka_http.demo.settings import BrokerNode


class EmbeddedCluster:
    """Brokers 1, 2, …, each of which may be stopped, killed and started by itself.

    Kafka's own topics, and those created without saying otherwise, are kept by each broker; with one broker fewer the
    cluster goes on. Raises `DemoError`.
    """

    def __init__(self, directory: Path, brokers: int = 3) -> None:
        ports = free_ports(2 * brokers)
        voters = {number: ports.pop() for number in range(1, brokers + 1)}
        cluster_id = new_cluster_id()
        self.brokers = {
            number: EmbeddedKafka(
                BrokerNode(directory / f"kafka-{number}", ports.pop(), controller_port, number, voters),
                cluster_id=cluster_id,
            )
            for number, controller_port in voters.items()
        }
        """By their node ids."""

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(broker.bootstrap_servers for broker in self.brokers.values())

    def start(self) -> None:
        """Start all that do not run and wait until each answers and knows of all."""
        try:
            self._each(EmbeddedKafka.launch)
            self._each(lambda broker: broker.wait_until_ready(brokers=len(self.brokers)))
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        self._each(EmbeddedKafka.stop)

    def kill(self) -> None:
        self._each(EmbeddedKafka.kill)

    def _each(self, do: Callable[[EmbeddedKafka], None]) -> None:
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            list(pool.map(do, self.brokers.values()))

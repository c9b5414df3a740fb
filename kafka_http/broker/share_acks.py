"""The acknowledgements for one leader: those that wait for the next request, and those of the present one."""

from collections.abc import Collection, Iterable, Mapping

from kafka_http.broker.share_requests import Acks
from kafka_http.share_groups import Acknowledgement, AckType


class PendingAcks:
    """One acknowledgement of a message is in a request at a time. Only the loop's thread uses it."""

    def __init__(self) -> None:
        self._waiting: dict[int, dict[int, AckType]] = {}
        self._behind: list[Acknowledgement] = []
        """Those of messages that have another one before them."""
        self._sent: dict[int, dict[int, AckType]] = {}
        """Those of the present request that have no result yet."""

    def __bool__(self) -> bool:
        """Whether some wait for the next request."""
        return bool(self._waiting)

    def add(self, acknowledgements: Iterable[Acknowledgement]) -> None:
        """Send these with the next request."""
        for each in acknowledgements:
            types = self._waiting.setdefault(each.partition, {})
            if each.offset in types:
                self._behind.append(each)
            else:
                types[each.offset] = each.type

    def take(self) -> Acks:
        """Return those of the next request. Each has its result when it was `settle`d."""
        self._sent, self._waiting = self._waiting, {}
        behind, self._behind = self._behind, []
        self.add(behind)
        return dict(self._sent)

    def settle(self, partition: int, types: Mapping[int, AckType]) -> list[Acknowledgement]:
        """Return acknowledgements of the present request that have a result now."""
        sent = self._sent.get(partition, {})
        if types is sent:  # the common case: all of a partition
            del self._sent[partition]
        else:
            for offset in types:
                sent.pop(offset, None)
        return [Acknowledgement(partition, offset, each) for offset, each in types.items()]

    def send_again(self, acks: Acks) -> None:
        """Send acknowledgements of the present request with the next one."""
        for partition, types in acks.items():
            self.add(self.settle(partition, types))

    def unsettled(self) -> list[Acknowledgement]:
        """Remove and return those of the present request that have no result."""
        return [each for acks in list(self._sent.items()) for each in self.settle(*acks)]

    def drop(self, partitions: Collection[int]) -> list[Acknowledgement]:
        """Remove and return those of these partitions that wait for the next request."""
        dropped = [
            Acknowledgement(partition, *ack)
            for partition in partitions
            for ack in self._waiting.pop(partition, {}).items()
        ]
        dropped += [each for each in self._behind if each.partition in partitions]
        self._behind = [each for each in self._behind if each.partition not in partitions]
        return dropped

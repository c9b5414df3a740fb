"""The turns of a share leader, with a session that the test makes up."""

import time
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
from kafka.net.selector import NetworkSelector

from kafka_http.broker import share_leader
from kafka_http.broker.share_leader import ShareLeader
from kafka_http.broker.share_session import Topic
from kafka_http.share_groups import Acknowledgement, AckType, ShareListener


class Connections:
    """Notes for how long a leader sleeps, and does not."""

    def __init__(self) -> None:
        self.loop = NetworkSelector()
        self.sleeps: list[float] = []

    def new_manager(self) -> None:
        return None

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)


class Session:
    """Kafka accepts all acknowledgements."""

    is_open = True
    used_at = time.monotonic()

    def __init__(self) -> None:
        self.requests: list[dict[int, list[int]]] = []

    async def connect(self, node: int) -> None:
        pass

    async def acknowledge(self, acks: Any) -> dict[int, Any]:
        self.requests.append({partition: list(types) for partition, types in acks.items()})
        return {}

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("calls", [1, 2, 3, 50])
def test_turn_waits_for_company_only_if_several_calls_have_come(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    session, connections, answered = Session(), Connections(), []
    monkeypatch.setattr(share_leader, "ShareSession", lambda *_: session)
    leader: ShareLeader

    def acknowledged(results: Any) -> None:
        answered.extend(results)
        leader.stop()

    nothing = Mock(return_value=0)
    owner = Mock(listener=ShareListener(nothing, nothing, acknowledged, nothing, nothing), share_of=nothing)
    leader = ShareLeader(owner, connections, "g", Topic("t", uuid4()), 1)  # type: ignore[arg-type]
    for each in range(calls):
        leader.add([Acknowledgement(0, each, AckType.ACCEPT)])
    connections.loop.run(leader.run)
    connections.loop.close()

    assert len(answered) == calls
    assert session.requests == [{0: list(range(calls))}]
    assert [each <= 0.002 for each in connections.sleeps] == [True] * (calls > 2)


def test_calls_that_come_while_a_leader_goes_to_sleep_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread does not wake the loop if the leader is in a turn, so the leader looks once more before it waits."""
    session, connections, answered = Session(), Connections(), []
    monkeypatch.setattr(share_leader, "ShareSession", lambda *_: session)
    leader: ShareLeader

    def take_calls() -> None:
        if not leader.is_busy and not session.requests:
            leader.add([Acknowledgement(0, 7, AckType.ACCEPT)])

    def acknowledged(results: Any) -> None:
        answered.extend(results)
        leader.stop()

    nothing = Mock(return_value=0)
    listener = ShareListener(nothing, nothing, acknowledged, nothing, nothing)
    owner = Mock(listener=listener, share_of=nothing, take_calls=take_calls)
    leader = ShareLeader(owner, connections, "g", Topic("t", uuid4()), 1)  # type: ignore[arg-type]
    connections.loop.run(leader.run)
    connections.loop.close()

    assert session.requests == [{0: [7]}]
    assert not leader.is_busy

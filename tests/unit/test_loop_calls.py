"""Calls that a main loop makes to the daemon: a loop that the test drives, and the daemon's end of each connection."""

import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from kafka_http.consumers.queue_service import LeaseResult, PendingCall, QueueMessage, QueueName, QueuePage
from kafka_http.errors import KafkaHttpError, TopicNotFound, Unavailable, WouldBlock
from kafka_http.logs import request_id
from kafka_http.node import loop_calls
from kafka_http.node.daemon_launcher import NotResponding
from kafka_http.node.daemon_protocol import CALLS, Channel, encode_error, requests
from kafka_http.node.loop_calls import LoopCalls
from kafka_http.records import Record
from tests.support.daemon_node import Node
from tests.support.polling import wait_for
from tests.support.small_loop import SmallLoop

QUEUE = QueueName("t", "c")
LEASE = "0:5:0.k1"
PAGE = QueuePage("p1", [QueueMessage(Record("t", 0, 5, None, b"k", b"v", []), LEASE, 1, 1764000000000)])
SETTLED = [LeaseResult(LEASE, acknowledged=True)]


class Peer(Channel):
    """The daemon's end of a connection."""

    @property
    def has_event(self) -> bool:
        return bool(select.select([self], [], [], 0)[0])

    def next_request(self) -> tuple[str, list[Any]]:
        """Return the name and the arguments of the next call."""
        request = requests.decode(self.receive())
        _, *arguments = msgspec.structs.astuple(request)
        return type(request).__name__, arguments

    def respond(self, call: str, value: Any) -> None:
        self.send(CALLS[call].encode_result(value))


class StubDaemon:
    """Opens connections for a `LoopCalls`. A test sets what is wrong."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.failure: Exception | None = None
        self.is_hung = False
        self.timeouts = 0
        self.kept: list[bytes] = []
        self.accepts = threading.Event()
        self.accepts.set()
        self.loop = SmallLoop()
        self.calls = LoopCalls(self._connect, self._check_responding, self._count_timeout, self.kept.append)
        self.calls.attach(self.loop)

    def _connect(self) -> Channel:
        assert self.accepts.wait(60)
        if self.failure is not None:
            raise self.failure
        ours, theirs = socket.socketpair()
        peer = Peer(theirs)
        peer.settimeout(60)
        self.peers.append(peer)
        return Channel(ours)

    def _check_responding(self) -> None:
        if self.is_hung:
            raise NotResponding

    def _count_timeout(self) -> None:
        self.timeouts += 1

    def peer(self, number: int = 0) -> Peer:
        """Wait until this connection has a request, or is closed."""
        self.loop.run_until(lambda: len(self.peers) > number and self.peers[number].has_event)
        return self.peers[number]

    def acquire(self, number: int = 0) -> tuple[PendingCall, Peer]:
        """Start a call. Return it with the connection of this number, on which it was sent."""
        call = self.calls.start_acquire(QUEUE, 1, 0.5, 30.0)
        peer = self.peer(number)
        assert peer.next_request() == ("acquire_messages", [QUEUE, 1, 0.5, 30.0, ""])
        return call, peer

    def settle(self, number: int = 0) -> tuple[PendingCall, Peer]:
        call = self.calls.start_settle(QUEUE, [LEASE], "acknowledge")
        peer = self.peer(number)
        assert peer.next_request() == ("settle_messages", [QUEUE, [LEASE], "acknowledge", 0.0])
        return call, peer

    def result(self, call: PendingCall) -> Any:
        """Run the loop until a call is done, and return its result."""
        done: list[bool] = []
        call.add_done_callback(lambda: done.append(True))
        self.loop.run_until(lambda: done)
        assert done == [True]
        return call.result()

    def close(self) -> None:
        self.accepts.set()
        wait_for(lambda: all(each.name != "daemon-connect" for each in threading.enumerate()))
        self.loop.run_round()
        self.calls.close()
        self.loop.run_round()
        self.loop.close()
        for each in self.peers:
            each.close()


@pytest.fixture
def daemon() -> Iterator[StubDaemon]:
    daemon = StubDaemon()
    yield daemon
    daemon.close()


def test_acquire_returns_the_page_of_the_daemon(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    peer.respond("acquire_messages", PAGE)
    page = daemon.result(call)
    assert (page.id, page.messages) == ("p1", PAGE.messages)


def test_settle_returns_the_results_of_the_daemon(daemon: StubDaemon) -> None:
    call, peer = daemon.settle()
    peer.respond("settle_messages", SETTLED)
    assert daemon.result(call) == SETTLED


def test_error_of_a_call_is_raised_by_its_result(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    peer.send(encode_error(TopicNotFound("t")))
    with pytest.raises(TopicNotFound):
        daemon.result(call)


def test_request_id_crosses_the_connection(daemon: StubDaemon) -> None:
    token = request_id.set("r-1")
    daemon.calls.start_acquire(QUEUE, 1, 0.5, 30.0)
    request_id.reset(token)
    request: Any = requests.decode(daemon.peer().receive())
    assert request.request_id == "r-1"


def test_connection_is_used_again_after_its_call(daemon: StubDaemon) -> None:
    for _ in range(3):
        call, peer = daemon.settle()
        peer.respond("settle_messages", SETTLED)
        assert daemon.result(call) == SETTLED
    assert len(daemon.peers) == 1


def test_calls_under_way_have_connections_of_their_own(daemon: StubDaemon) -> None:
    """A call that waits at the daemon does not delay another one."""
    pairs = [daemon.acquire(number) for number in range(5)]
    for number, (_, peer) in reversed(list(enumerate(pairs))):
        peer.respond("acquire_messages", QueuePage(f"p{number}"))
    assert [daemon.result(call).id for call, _ in pairs] == [f"p{number}" for number in range(5)]


def test_calls_that_wait_for_a_connection_take_one_that_becomes_idle(daemon: StubDaemon) -> None:
    first, peer = daemon.settle()
    daemon.accepts.clear()
    waiting = [daemon.calls.start_settle(QUEUE, [LEASE], "reject") for _ in range(3)]
    peer.respond("settle_messages", SETTLED)
    daemon.result(first)
    for each in waiting:
        assert daemon.peer().next_request()[1][2] == "reject"
        peer.respond("settle_messages", SETTLED)
        daemon.result(each)


def test_response_that_arrives_in_pieces_is_put_together(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    page = QueuePage("p1", [QueueMessage(Record("t", 0, 5, None, None, b"v" * 1_000_000, []), LEASE, 1, 1)])
    sending = threading.Thread(target=peer.respond, args=("acquire_messages", page))
    sending.start()  # more than the buffers of a socket hold
    assert len(daemon.result(call).messages[0].record.value) == 1_000_000
    sending.join()


def test_acquire_is_repeated_once_if_its_connection_is_lost(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    peer.shutdown()
    again = daemon.peer(1)
    assert again.next_request()[0] == "acquire_messages"
    again.respond("acquire_messages", PAGE)
    assert daemon.result(call).id == "p1"


def test_acquire_whose_second_connection_is_lost_fails(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    peer.shutdown()
    daemon.peer(1).shutdown()
    with pytest.raises(Unavailable, match="daemon was lost"):
        daemon.result(call)


def test_settle_is_not_repeated_if_its_connection_is_lost(daemon: StubDaemon) -> None:
    """The daemon may have done it: the second result would be another one."""
    call, peer = daemon.settle()
    peer.shutdown()
    with pytest.raises(Unavailable, match="daemon was lost"):
        daemon.result(call)
    assert len(daemon.peers) == 1


def test_settle_that_was_not_sent_is_repeated(daemon: StubDaemon) -> None:
    """An idle connection has ended, and the loop has not noticed it yet."""
    call, peer = daemon.settle()
    peer.respond("settle_messages", SETTLED)
    daemon.result(call)
    peer.shutdown()
    call, peer = daemon.settle(1)
    peer.respond("settle_messages", SETTLED)
    assert daemon.result(call) == SETTLED


def test_idle_connection_that_ends_is_not_used_again(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    peer.respond("acquire_messages", PAGE)
    daemon.result(call)
    peer.shutdown()
    daemon.loop.run_round()
    assert daemon.acquire(1)


@pytest.mark.parametrize("content", [b"\xc1", b"", b"\x91\x01"])
def test_malformed_response_ends_the_connection(daemon: StubDaemon, content: bytes) -> None:
    call, peer = daemon.settle()
    peer.send(content)
    with pytest.raises(Unavailable, match="daemon was lost"):
        daemon.result(call)
    with pytest.raises(EOFError):
        peer.receive()


def test_unexpected_response_ends_the_connection(daemon: StubDaemon) -> None:
    """The next call would take it for its own."""
    call, peer = daemon.settle()
    peer.respond("settle_messages", SETTLED)
    assert daemon.result(call) == SETTLED
    peer.respond("settle_messages", [])
    daemon.loop.run_round()
    with pytest.raises(EOFError):
        peer.receive()


def test_calls_fail_if_the_daemon_cannot_be_reached(daemon: StubDaemon) -> None:
    daemon.failure = Unavailable("The daemon does not start.")
    calls = [daemon.calls.start_acquire(QUEUE, 1, 0, 30.0) for _ in range(3)]
    for each in calls:
        with pytest.raises(Unavailable, match="does not start"):
            daemon.result(each)
    daemon.failure = None
    assert daemon.acquire()


def test_unexpected_error_of_a_connection_attempt_fails_the_calls(
    daemon: StubDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon.failure = RuntimeError("out of threads")
    with pytest.raises(Unavailable, match="cannot be reached"):
        daemon.result(daemon.calls.start_acquire(QUEUE, 1, 0, 30.0))
    assert "out of threads" in caplog.text


def test_calls_fail_if_no_thread_can_be_started(daemon: StubDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later call tries it again."""
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        call = daemon.calls.start_acquire(QUEUE, 1, 0, 30.0)
    with pytest.raises(Unavailable, match="cannot be reached"):
        daemon.result(call)
    assert daemon.acquire()


def test_connections_that_were_idle_longest_are_closed(daemon: StubDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each occupies a thread of the daemon."""
    monkeypatch.setattr(loop_calls, "_MAX_IDLE", 2)
    pairs = [daemon.settle(number) for number in range(4)]
    for call, peer in pairs:
        peer.respond("settle_messages", SETTLED)
        daemon.result(call)
    assert [peer.has_event for _, peer in pairs] == [True, True, False, False]


def test_call_that_is_not_done_raises_unavailable(daemon: StubDaemon) -> None:
    call, _ = daemon.acquire()
    with pytest.raises(Unavailable, match="does not respond"):
        call.result()


def test_page_of_an_abandoned_call_is_released(daemon: StubDaemon) -> None:
    """Nobody would release the messages before their locks end: the daemon has sent the page."""
    call, peer = daemon.acquire()
    call.add_done_callback(lambda: pytest.fail("the call was abandoned"))
    call.abandon()
    call.abandon()
    assert daemon.timeouts == 1
    peer.respond("acquire_messages", PAGE)
    assert daemon.peer().next_request() == ("release_page", ["p1"])
    peer.respond("release_page", None)
    daemon.loop.run_round()
    assert daemon.acquire(), "the connection is used again"


def test_abandoned_call_that_waits_for_a_connection_is_not_made(daemon: StubDaemon) -> None:
    daemon.accepts.clear()
    daemon.calls.start_acquire(QUEUE, 1, 0, 30.0).abandon()
    daemon.accepts.set()
    assert daemon.settle()


def test_abandoned_call_is_not_repeated(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    call.abandon()
    peer.shutdown()
    daemon.loop.run_round()
    assert daemon.settle(1)


def test_abandon_of_a_call_that_is_done_keeps_its_page(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    peer.respond("acquire_messages", PAGE)
    daemon.result(call)
    call.abandon()
    assert not peer.has_event
    assert not daemon.timeouts


def test_page_that_was_not_sent_is_released(daemon: StubDaemon) -> None:
    daemon.calls.release_page("p1")
    assert daemon.peer().next_request() == ("release_page", ["p1"])


def test_page_is_released_when_the_daemon_responds_again(daemon: StubDaemon) -> None:
    daemon.is_hung = True
    daemon.calls.release_page("p1")
    (message,) = daemon.kept
    assert msgspec.structs.astuple(requests.decode(message)) == (request_id.get(), "p1")


def test_hung_daemon_fails_all_calls_at_once(daemon: StubDaemon) -> None:
    sent = [daemon.acquire(0)[0], daemon.settle(1)[0]]
    daemon.accepts.clear()
    waiting = daemon.calls.start_acquire(QUEUE, 1, 0, 30.0)
    daemon.is_hung = True
    daemon.calls.abort_if_hung()
    for each in (*sent, waiting):
        with pytest.raises(NotResponding):
            daemon.result(each)
    with pytest.raises(NotResponding):
        daemon.calls.start_settle(QUEUE, [LEASE], "acknowledge")
    for peer in daemon.peers:
        with pytest.raises(EOFError):
            peer.receive()


def test_calls_work_after_the_daemon_responds_again(daemon: StubDaemon) -> None:
    failed, _ = daemon.acquire()
    daemon.is_hung = True
    daemon.calls.abort_if_hung()
    with pytest.raises(NotResponding):
        daemon.result(failed)
    daemon.is_hung = False
    assert daemon.acquire(1)


def test_daemon_that_responds_again_at_once_ends_no_call(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    daemon.calls.abort_if_hung()
    daemon.loop.run_round()
    peer.respond("acquire_messages", PAGE)
    assert daemon.result(call).id == "p1"


def test_too_many_calls_are_left_to_threads(daemon: StubDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_calls, "MAX_CALLS", 2)
    daemon.calls.attach(daemon.loop)
    first, peer = daemon.acquire(0)
    daemon.acquire(1)
    with pytest.raises(WouldBlock):
        daemon.calls.start_settle(QUEUE, [LEASE], "acknowledge")
    peer.respond("acquire_messages", PAGE)
    daemon.result(first)
    assert daemon.settle(0)


def test_calls_use_a_quarter_of_few_file_descriptors(daemon: StubDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    daemon.calls.attach(daemon.loop)
    daemon.acquire(0)
    daemon.acquire(1)
    with pytest.raises(WouldBlock):
        daemon.calls.start_settle(QUEUE, [LEASE], "acknowledge")


def test_callback_that_starts_a_call_uses_the_same_connection(daemon: StubDaemon) -> None:
    call, peer = daemon.acquire()
    call.add_done_callback(lambda: daemon.calls.start_settle(QUEUE, [LEASE], "acknowledge") and None)
    peer.respond("acquire_messages", PAGE)
    daemon.result(call)
    assert daemon.peer().next_request()[0] == "settle_messages"


def test_closed_client_fails_its_calls(daemon: StubDaemon) -> None:
    call, _ = daemon.acquire()
    daemon.calls.close()
    with pytest.raises(Unavailable, match="stopping"):
        daemon.result(call)


def test_calls_reach_the_services_of_a_daemon(tmp_path: Path) -> None:
    """The whole way: `DaemonClient` and `DaemonServer` on a real socket."""
    node, loop = Node(tmp_path / "data"), SmallLoop()
    node.instances.acquire_messages.return_value = PAGE
    node.instances.settle_messages.side_effect = KafkaHttpError("no")
    worker = node.worker()
    worker.attach(loop)
    acquired = worker.loop_queues.start_acquire(QUEUE, 3, 0.5, 30.0, "dead")
    loop.run_until(lambda: node.instances.acquire_messages.called)
    settled = worker.loop_queues.start_settle(QUEUE, [LEASE], "extend", 60.0)
    done: list[Callable[[], Any]] = []
    acquired.add_done_callback(lambda: done.append(acquired.result))
    settled.add_done_callback(lambda: done.append(settled.result))
    loop.run_until(lambda: len(done) == 2)
    assert acquired.result().messages == PAGE.messages
    with pytest.raises(KafkaHttpError, match="no"):
        settled.result()
    node.instances.acquire_messages.assert_called_once_with(QUEUE, 3, 0.5, 30.0, "dead")
    node.instances.settle_messages.assert_called_once_with(QUEUE, [LEASE], "extend", 60.0)
    node.end()
    loop.run_round()
    loop.close()

"""The daemon's socket: a `DaemonServer` in this process with mocked services, and its clients."""

import errno
import inspect
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock, call
from uuid import UUID

import msgspec
import pytest

from kafka_http import errors
from kafka_http.config import Config
from kafka_http.consumers.instance_service import (
    InstanceCaller,
    ReadLease,
    RemoteNode,
)
from kafka_http.consumers.queue_service import (
    BlockedPartition,
    ErrorEntry,
    HeldLease,
    LeaseResult,
    LockLimits,
    QueueMessage,
    QueueName,
    QueuePage,
    QueuePartition,
    QueueState,
)
from kafka_http.errors import KafkaHttpError, TopicNotFound, Unavailable, WouldBlock
from kafka_http.name_filter import NameFilter
from kafka_http.node import daemon_client as proxy
from kafka_http.node import daemon_server
from kafka_http.node.daemon_client import DaemonClient
from kafka_http.node.daemon_launcher import config_from_json, settings_to_json
from kafka_http.node.daemon_protocol import (
    CALLS as CALLS_BY_NAME,
)
from kafka_http.node.daemon_protocol import (
    PROTOCOLS,
    VERSION,
    Channel,
    Greeting,
    Hello,
    Rejected,
    Stopping,
    Welcome,
)
from kafka_http.node.data_directory import DataDirectory
from kafka_http.pending import DoneCallbacks
from kafka_http.records import (
    ClaimEnd,
    ClaimRequest,
    InstanceDefinition,
    InstanceSettings,
    KeyClaimResult,
    OffsetEntry,
    Record,
    StoredResponse,
    TopicPartition,
)
from kafka_http.tasks import NewTask, Task, TaskCallback
from tests.support.daemon_node import Calls, Node
from tests.support.polling import scaled, wait_for
from tests.support.small_loop import SmallLoop

SETTINGS = InstanceSettings(format="json", timeout=2.5)
ALICE = InstanceCaller("alice", readable=NameFilter((("t*",),), ("t2",)))
TASK = Task("1", "t", "delivered", 1.5, 2.5, b"{}", TaskCallback("http://example.org", "failed", 3, "no answer"), "a")
LOAN = ReadLease("l1", SETTINGS, [OffsetEntry("t", 0, 5)], ids={"t": UUID(int=7), "old": None})


QUEUE = QueueName("t", "ü")
LEASE = "0:5:0.k1"
MESSAGE = QueueMessage(Record("t", 0, 5, None, b"\xff", None, [("h", None)]), LEASE, 2, 1764000000000)
PAGE = QueuePage("p1", [MESSAGE], [BlockedPartition(1, 7, "1:7:0.k2")], ["a sentence"])
STATE = QueueState("t", "ü", 5, LockLimits(), [QueuePartition(0, -1, 9, 4)], [HeldLease(LEASE, 2, 1764000000000)])


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "data")
    yield node
    node.end()


CALLS: list[tuple[str, tuple[Any, ...], Any]] = [
    ("list_instances", (), [InstanceDefinition("g", "i", "i-1", SETTINGS, ("t",), None, (TopicPartition("t", 1),))]),
    ("create", ("g", "i", SETTINGS, ALICE), None),
    ("delete", ("g", "i", ALICE), None),
    ("settings", ("g", "i", ALICE), SETTINGS),
    ("subscribe", ("g", "i", ["t", "ü"], None, ALICE), None),
    ("subscribe", ("g", "i", [], "t.*", ALICE), None),
    ("unsubscribe", ("g", "i", ALICE), None),
    ("subscription", ("g", "i", ALICE), ["t", "u"]),
    ("assign", ("g", "i", [TopicPartition("t", 1)], ALICE), None),
    ("assignments", ("g", "i", ALICE), [TopicPartition("t", 1)]),
    ("seek", ("g", "i", [OffsetEntry("t", 1, 1 << 60)], ALICE), None),
    ("seek_times", ("g", "i", [OffsetEntry("t", 1, 5)], ALICE), None),
    ("seek_ends", ("g", "i", [TopicPartition("t", 1)], "latest", ALICE), None),
    ("commit", ("g", "i", None, ALICE), None),
    ("commit", ("g", "i", [OffsetEntry("t", 1, 5, "m")], ALICE), None),
    ("committed", ("g", "i", [TopicPartition("t", 1)], ALICE), [OffsetEntry("t", 1, 5, "m")]),
    ("acquire_lease", ("g", "i", 1.5, ALICE), LOAN),
    ("renew_lease", (LOAN, [OffsetEntry("t", 0, 6)], 0.5, ["t"]), LOAN),
    ("release_lease", (LOAN, [OffsetEntry("t", 0, 6)], [OffsetEntry("t", 0, 6)]), None),
    ("release_lease", (LOAN, [], []), None),
    ("locate", ("g", "i", "secret"), None),
    ("node_secret", (), "secret"),
    ("locate", ("g", "i", ""), RemoteNode("http://127.0.0.1:8083", "secret", 2.5)),
    ("acquire_messages", (QUEUE, 10, 0.5, 30.0, "dead"), PAGE),
    ("acquire_messages", (QUEUE, 1, 0.0, 30.0, ""), QueuePage("p2", [], [], [])),
    ("confirm_pages", (["p1", "p2"],), None),
    ("release_page", ("p1",), None),
    (
        "settle_messages",
        (QUEUE, [LEASE, "1:7:0.k2", "2:8:0.k3"], "extend", 60.0),
        [
            LeaseResult(LEASE, acknowledged=True),
            LeaseResult("1:7:0.k2", locked_until=1764000000000),
            LeaseResult("2:8:0.k3", error=ErrorEntry(40904, "ended")),
        ],
    ),
    ("queue_state", (QUEUE,), STATE),
    ("leave_queue", (QUEUE,), None),
    ("delete_queue", (QUEUE,), None),
    ("queue_node", (), "0"),
    ("live_nodes", (), {"aabbccdd": RemoteNode("http://127.0.0.1:8083", "secret", 0.0)}),
    (
        "update_keys",
        ([ClaimRequest("me", "ü", "f" * 64, "w/1"), ClaimRequest("", "k", "f" * 64, "w/2")], []),
        [KeyClaimResult("claimed"), KeyClaimResult("completed", StoredResponse(200, {"A": "b"}, b"\xff\x00"))],
    ),
    (
        "update_keys",
        ([], [ClaimEnd("", "k", "w/1", StoredResponse(207, {}, b"")), ClaimEnd("me", "k", "w/2", None)]),
        [],
    ),
    ("accept_tasks", ([NewTask("1", "t", 1.5, b"\xff", "http://example.org")],), 1),
    ("find_task", ("1", 2.5, "alice"), TASK),
    ("find_task", ("1", 0.0, None), None),
    ("list_tasks", ("pending", None, 10, "0", "alice"), [TASK]),
    ("cancel_task", ("1", None), TASK),
]


@pytest.mark.parametrize(("name", "arguments", "result"), CALLS, ids=[each[0] for each in CALLS])
def test_call_passes_arguments_and_returns_result(
    node: Node, name: str, arguments: tuple[Any, ...], result: Any
) -> None:
    getattr(node.instances, name).return_value = result
    assert getattr(cast("Calls", node.worker().instances), name)(*arguments) == result
    getattr(node.instances, name).assert_called_once_with(*arguments)


def test_each_protocol_method_is_tested() -> None:
    methods = [each for protocol in PROTOCOLS for each in vars(protocol).items()]
    asked = {name for name, each in methods if inspect.isfunction(each) and not name.startswith("_")}
    assert {each[0] for each in CALLS} == asked


def test_omitted_argument_gets_its_default(node: Node) -> None:
    node.instances.renew_lease.return_value = LOAN
    node.worker().instances.renew_lease(LOAN)
    node.instances.renew_lease.assert_called_once_with(LOAN, [], 0, [])


def test_error_of_the_daemon_is_raised_with_its_class(node: Node) -> None:
    calls = node.worker().instances
    for kind in vars(errors).values():
        if not (isinstance(kind, type) and issubclass(kind, KafkaHttpError)):
            continue
        error = kind.__new__(kind)
        KafkaHttpError.__init__(error, "a sentence", field="t", number=3)
        node.instances.delete.side_effect = error
        with pytest.raises(KafkaHttpError) as raised:
            calls.delete("g", "i", ALICE)
        assert type(raised.value) is kind
        assert (raised.value.message, raised.value.fields) == ("a sentence", {"field": "t", "number": 3})


def test_unexpected_error_of_the_daemon_is_reported_without_traceback(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.instances.delete.side_effect = ZeroDivisionError("secret")
    with pytest.raises(KafkaHttpError, match="log of the server's daemon") as raised:
        node.worker().instances.delete("g", "i", ALICE)
    assert raised.value.code == 500
    assert "ZeroDivisionError: secret" in caplog.text


def test_slow_call_does_not_delay_another(node: Node) -> None:
    entered, leave = threading.Event(), threading.Event()

    def wait(*_: Any) -> ReadLease:
        entered.set()
        assert leave.wait(10)
        return LOAN

    node.instances.acquire_lease.side_effect = wait
    node.instances.settings.return_value = SETTINGS
    calls = node.worker().instances
    waiting = threading.Thread(target=calls.acquire_lease, args=("g", "i", 1.0, ALICE))
    waiting.start()
    assert entered.wait(5)
    assert calls.settings("g", "i", ALICE) == SETTINGS
    leave.set()
    waiting.join()


def test_keys_claimed_by_a_call_that_timed_out_are_released(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request got a 503, but its key stayed in progress until the worker ended."""
    monkeypatch.setattr(proxy, "_ANSWER_SECONDS", 0.5)
    leave = threading.Event()
    claims = [ClaimRequest("me", "k", "f", "w/1"), ClaimRequest("me", "l", "f", "w/2")]
    ends = [ClaimEnd("me", "m", "w/3", StoredResponse(200, {}, b""))]

    def update(claims: list[ClaimRequest], ends: list[ClaimEnd]) -> list[KeyClaimResult]:
        leave.wait(10)
        return [KeyClaimResult("claimed")] * len(claims)

    node.instances.update_keys.side_effect = update
    with pytest.raises(Unavailable, match="does not respond"):
        node.worker().keys.update_keys(claims, ends)
    leave.set()
    wait_for(lambda: node.instances.update_keys.call_count == 2)
    releases = [ClaimEnd("me", "k", "w/1", None), ClaimEnd("me", "l", "w/2", None)]
    assert node.instances.update_keys.mock_calls == [call(claims, ends), call([], releases)]


def test_call_whose_worker_has_given_up_ends_claims_and_makes_none(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The response of a worker that was killed is stored, but nobody would end a new claim."""
    has_given_up, is_abandoned = threading.Event(), Channel.is_abandoned
    node.instances.update_keys.return_value = []
    channel, greeting = node.greet(Hello(VERSION, node.settings, "w", True))
    assert greeting == Welcome()
    monkeypatch.setattr(Channel, "is_abandoned", lambda self: has_given_up.wait(10) and is_abandoned(self))
    end = ClaimEnd("", "k", "w/1", StoredResponse(200, {}, b""))
    request = CALLS_BY_NAME["update_keys"].request("-", [ClaimRequest("", "l", "f", "w/2")], [end])
    channel.send(msgspec.msgpack.encode(request))
    channel.close()
    has_given_up.set()
    wait_for(lambda: node.instances.update_keys.called)
    node.instances.update_keys.assert_called_once_with([], [end])


@pytest.mark.parametrize("timeout", [None, 0.01])
def test_channel_is_abandoned_after_other_end_closed(timeout: float | None) -> None:
    """The daemon ignores a call whose caller has given up, so that a 503 means that nothing was done."""
    ours, theirs = socket.socketpair()
    channel, caller = Channel(ours), Channel(theirs)
    channel.settimeout(timeout)
    caller.send(b"call")
    assert channel.receive() == b"call"
    assert not channel.is_abandoned()
    caller.send(b"another")
    assert channel.receive() == b"another"
    caller.close()
    assert channel.is_abandoned()
    channel.close()


def test_channel_continues_to_receive_after_timeout() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    channel.settimeout(0.01)
    for piece in (b"\x00\x00", b"\x00\x03a", b"b"):
        theirs.sendall(piece)
        with pytest.raises(TimeoutError):
            channel.receive()
    theirs.sendall(b"c")
    assert channel.receive() == b"abc"
    channel.close()
    theirs.close()


WRONG = [
    b"",
    b"\x00\x00",
    b"\x00\x00\x00\x10half",
    b"\xff\xff\xff\xff" + b"x" * 1000,
    b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1",
    b"\x00\x00\x00\x00",
]


@pytest.mark.parametrize("greeted", [False, True])
@pytest.mark.parametrize("sent", WRONG)
def test_malformed_message_does_not_affect_other_connections(node: Node, sent: bytes, greeted: bool) -> None:
    node.instances.settings.return_value = SETTINGS
    calls = node.worker().instances
    calls.settings("g", "i", ALICE)
    with node.connect() as wrong:
        if greeted:
            hello = msgspec.msgpack.encode(Hello(VERSION, node.settings, "w2", True))
            wrong.sendall(struct.pack(">I", len(hello)) + hello)
            assert wrong.recv(100)
        wrong.sendall(sent)
        began = time.monotonic()
        for _ in range(20):
            assert calls.settings("g", "i", ALICE) == SETTINGS
        assert time.monotonic() - began < scaled(1)


def test_more_connections_than_the_backlog_are_accepted(node: Node) -> None:
    silent = [node.connect() for _ in range(200)]
    node.instances.settings.return_value = SETTINGS
    assert node.worker().instances.settings("g", "i", ALICE) == SETTINGS
    for each in silent:
        each.close()


def test_daemon_that_cannot_accept_tries_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files ended the daemon, and with it all leases."""
    monkeypatch.setattr(daemon_server, "_ACCEPT_SECONDS", 0.01)
    node.instances.settings.return_value = SETTINGS
    accept = daemon_server.DaemonServer._accept_connection
    failures = [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")]

    def fail_at_first(server: daemon_server.DaemonServer) -> None:
        if failures:
            raise failures.pop()
        accept(server)

    monkeypatch.setattr(daemon_server.DaemonServer, "_accept_connection", fail_at_first)
    wait_for(lambda: not failures)
    assert node.worker().instances.settings("g", "i", ALICE) == SETTINGS


def test_worker_with_too_many_open_files_keeps_its_daemon(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took the daemon for missing, and closed the connection that keeps its leases."""
    node.instances.acquire_lease.return_value = LOAN
    worker, connect = node.worker(), DataDirectory.connect
    lease = worker.instances.acquire_lease("g", "i", 1.0, ALICE)

    def fail(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    loop = SmallLoop()
    worker.attach(loop)
    monkeypatch.setattr(DataDirectory, "connect", fail)
    call = worker.loop_queues.start_settle(QUEUE, [LEASE], "acknowledge")
    done = threading.Event()
    call.add_done_callback(done.set)
    loop.run_until(done.is_set)
    with pytest.raises(Unavailable, match="Too many open files"):
        call.result()
    monkeypatch.setattr(DataDirectory, "connect", connect)
    node.instances.release_lease.assert_not_called()
    worker.instances.release_lease(lease, [], [])
    loop.close()


def test_read_leases_end_with_their_worker(node: Node) -> None:
    node.instances.acquire_lease.side_effect = lambda group, name, *_: ReadLease(name, SETTINGS, [])
    first, second = node.worker(), node.worker()
    kept, given_back = (
        first.instances.acquire_lease("g", "kept", 1, ALICE),
        first.instances.acquire_lease("g", "given back", 1, ALICE),
    )
    second.instances.acquire_lease("g", "another's", 1, ALICE)
    first.instances.release_lease(given_back, [], [])
    first.close()
    wait_for(lambda: node.instances.release_lease.call_count == 2, 5)
    assert node.instances.release_lease.call_args_list == [call(given_back, [], []), call(kept)]


def close_during(worker: DaemonClient, make_call: Callable[[], object], method: Mock, result: object) -> None:
    """Close a worker while the daemon runs a call of it, which then returns `result`."""
    entered, leave = threading.Event(), threading.Event()

    def answer(*_: Any) -> object:
        entered.set()
        assert leave.wait(30)
        return result

    method.side_effect = answer

    def fail() -> None:
        with pytest.raises(Unavailable):
            make_call()

    calling = threading.Thread(target=fail)
    calling.start()
    assert entered.wait(10)
    worker.close()
    calling.join(10)
    leave.set()


def test_read_lease_of_worker_that_closed_during_the_call_ends(node: Node) -> None:
    worker, service = node.worker(), node.instances

    close_during(worker, lambda: worker.instances.acquire_lease("g", "i", 1.0, ALICE), service.acquire_lease, LOAN)

    wait_for(lambda: service.release_lease.called)
    service.release_lease.assert_called_once_with(LOAN)


def test_pages_that_were_not_sent_are_released_when_their_worker_ends(node: Node) -> None:
    """A worker that is killed between acquiring and sending would keep its messages locked."""
    node.instances.acquire_messages.side_effect = lambda queue, limit, *_: QueuePage(f"p{limit}", [MESSAGE])
    node.instances.release_page.return_value = node.instances.confirm_pages.return_value = None
    first, second = node.worker(), node.worker()
    for limit in (1, 2, 3):
        first.queues.acquire_messages(QUEUE, limit, 0, 30)
    second.queues.acquire_messages(QUEUE, 4, 0, 30)
    first.queues.confirm_pages(["p1"])
    first.queues.release_page("p2")
    first.close()
    wait_for(lambda: node.instances.release_page.call_count == 2, 5)
    assert node.instances.release_page.call_args_list == [call("p2"), call("p3")]


def test_page_of_a_worker_that_closed_during_the_call_is_released(node: Node) -> None:
    worker, service = node.worker(), node.instances

    close_during(worker, lambda: worker.queues.acquire_messages(QUEUE, 1, 1.0, 30.0), service.acquire_messages, PAGE)

    wait_for(lambda: service.release_page.called)
    service.release_page.assert_called_once_with("p1")


def test_settlement_whose_response_is_lost_is_not_repeated(node: Node) -> None:
    """The second attempt would find the lease gone, though the message was acknowledged."""
    node.instances.settle_messages.side_effect = lambda *_: [
        each.shutdown() for session in node.server._workers.values() for each in session.channels.copy()
    ]
    with pytest.raises(Unavailable, match="lost"):
        node.worker().queues.settle_messages(QUEUE, [LEASE], "acknowledge")
    node.instances.settle_messages.assert_called_once()


def test_is_connected_tells_running_workers_by_name(node: Node) -> None:
    node.instances.settings.return_value = SETTINGS
    first, second = node.worker(), node.worker()
    assert not node.server.is_connected(first.worker)
    for each in (first, second):
        each.instances.settings("g", "i", ALICE)
        assert node.server.is_connected(each.worker)
    first.close()
    wait_for(lambda: not node.server.is_connected(first.worker), 5)
    assert node.server.is_connected(second.worker)


def test_worker_that_gives_up_before_the_greeting_is_not_connected(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that had hung counted such a worker for good, and did not end."""
    with node.connect() as worker:
        monkeypatch.setattr(Channel, "send", Mock(side_effect=BrokenPipeError))
        worker.sendall(_heartbeat(node))
        assert worker.recv(1) == b""
    assert not node.server.is_connected("w")


def test_heartbeat_that_its_worker_gave_up_does_not_replace_a_later_one(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that had hung accepts the connections of one worker in any order."""
    may_go_on, is_abandoned = threading.Event(), Channel.is_abandoned
    with node.connect() as earlier:
        later, greeting = node.greet(Hello(VERSION, node.settings, "w", True))
        assert greeting == Welcome()
        monkeypatch.setattr(Channel, "is_abandoned", lambda self: may_go_on.wait(10) and is_abandoned(self))
        earlier.sendall(_heartbeat(node))
        earlier.shutdown(socket.SHUT_WR)
        may_go_on.set()
        assert earlier.recv(1) == b""
    assert node.server.is_connected("w")
    later.close()


def _heartbeat(node: Node) -> bytes:
    hello = msgspec.msgpack.encode(Hello(VERSION, node.settings, "w", True))
    return struct.pack(">I", len(hello)) + hello


def test_daemon_stops_when_no_worker_is_connected(node: Node) -> None:
    node.instances.settings.return_value = SETTINGS
    first, second = node.worker(), node.worker()
    for each in (first, second):
        each.instances.settings("g", "i", ALICE)
    node.server.stop()
    first.close()
    second.instances.settings("g", "i", ALICE)
    assert not node.is_over
    second.close()
    wait_for(lambda: node.is_over, 5)
    assert not list(node.directory.path.glob("*.sock"))


def test_worker_of_another_version_is_refused_while_workers_are_connected(node: Node) -> None:
    node.instances.settings.return_value = SETTINGS
    worker = node.worker()
    worker.instances.settings("g", "i", ALICE)
    channel, greeting = node.greet(Hello("another", node.settings, "w2", True))
    channel.close()
    assert isinstance(greeting, Rejected)
    assert "another version" in greeting.reason
    assert worker.instances.settings("g", "i", ALICE) == SETTINGS


def test_daemon_stops_for_worker_with_other_settings_when_its_own_are_gone(node: Node) -> None:
    channel, greeting = node.greet(Hello(VERSION, node.settings, "w1", True))
    assert isinstance(greeting, Welcome)
    other = DaemonClient(config_from_json({**settings_to_json(node.config), "consumer_idle_timeout": 5.0}))
    with pytest.raises(Unavailable, match="another set of settings"):
        other.instances.settings("g", "i", ALICE)
    channel.close()
    wait_for(lambda: isinstance(_greeted(node, Hello(VERSION, "other settings", "w2", True)), Stopping), 5)
    wait_for(lambda: node.is_over, 5)
    other.close()


def _greeted(node: Node, hello: Hello) -> Greeting:
    channel, greeting = node.greet(hello)
    channel.close()
    return greeting


def test_connection_of_worker_without_heartbeat_is_refused(node: Node) -> None:
    assert isinstance(_greeted(node, Hello(VERSION, node.settings, "w1", False)), Stopping)


def test_data_directory_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    node = Node(tmp_path / ("d" * 100) / ("e" * 100))
    node.instances.settings.return_value = SETTINGS
    assert node.worker().instances.settings("g", "i", ALICE) == SETTINGS
    node.end()


def test_data_directory_and_socket_have_owner_only_modes(node: Node) -> None:
    sockets = list(node.directory.path.glob("*.sock"))
    assert [stat.S_IMODE(each.stat().st_mode) for each in (node.directory.path, *sockets)] == [0o700, 0o600]


def test_data_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(Unavailable, match="chmod 700"):
        DataDirectory(tmp_path).create()
    DataDirectory(tmp_path / "inside").create()


def test_data_directory_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be used"):
        DataDirectory(tmp_path / "file" / "data").create()


def test_settings_survive_json() -> None:
    config = Config(kafka={"sasl_plain_password": "secret"}, serializers={"x": {"a": 1}}, sources={"kafka": "file"})
    assert config_from_json(msgspec.json.decode(msgspec.json.encode(settings_to_json(config)))) == config


def test_forked_process_gets_its_own_connections_and_name(node: Node) -> None:
    node.instances.settings.return_value = SETTINGS
    worker = node.worker()
    name = worker.worker
    worker.instances.settings("g", "i", ALICE)
    child = os.fork()
    if not child:
        os._exit(0 if worker.worker != name and worker.instances.settings("g", "i", ALICE) == SETTINGS else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert worker.worker == name
    assert worker.instances.settings("g", "i", ALICE) == SETTINGS


class StartedCall(DoneCallbacks):
    """A call of a queue that the service has started."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value
        self.is_abandoned = threading.Event()

    def result(self, timeout: float | None = None) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def abandon(self) -> None:
        self.is_abandoned.set()


@pytest.fixture
def channels(node: Node) -> Iterator[list[Channel]]:
    """Two connections of a worker, and the one of its heartbeat."""
    hellos = [Hello(VERSION, node.settings, "w", is_heartbeat) for is_heartbeat in (True, False, False)]
    opened = [node.greet(each)[0] for each in hellos]
    yield opened[1:]
    for each in opened:
        each.close()


def send_call(channel: Channel, name: str, *arguments: Any) -> None:
    channel.send(msgspec.msgpack.encode(CALLS_BY_NAME[name].request("id", *arguments)))


def test_started_calls_are_answered_when_they_are_done(node: Node, channels: list[Channel]) -> None:
    """The first response does not fit into the socket's buffer."""
    value = b"x" * (8 << 20)
    large = msgspec.structs.replace(MESSAGE, record=Record("t", 0, 5, None, None, value, ()))
    calls = [StartedCall(QueuePage("p1", [large])), StartedCall(TopicNotFound("t"))]
    node.instances.start_acquire.side_effect = lambda _, limit, *__: calls[limit]
    call, (first, second) = CALLS_BY_NAME["acquire_messages"], channels
    for number, each in enumerate(channels):
        send_call(each, "acquire_messages", QUEUE, number, 5.0, 30.0)
    wait_for(lambda: node.instances.start_acquire.call_count == 2)

    calls[1].complete()
    with pytest.raises(TopicNotFound):
        call.decode_result(second.receive())
    calls[0].complete()

    assert call.decode_result(first.receive()).messages[0].record.value == value
    node.instances.acquire_messages.assert_not_called()


def test_threads_make_the_other_calls_of_a_connection(node: Node, channels: list[Channel]) -> None:
    node.instances.settle_messages.return_value = node.instances.confirm_pages.return_value = None
    node.instances.node_secret.return_value = "secret"
    done = StartedCall([])
    done.complete()
    node.instances.start_settle.side_effect = [done, WouldBlock, done]
    node.instances.settle_messages.return_value = [LeaseResult(LEASE, acknowledged=True)]
    results = []
    for name, *arguments in (
        ("settle_messages", QUEUE, [LEASE], "acknowledge"),
        ("node_secret",),
        ("settle_messages", QUEUE, [LEASE], "acknowledge"),
        ("confirm_pages", ["p1"]),
        ("settle_messages", QUEUE, [LEASE], "acknowledge"),
    ):
        send_call(channels[0], name, *arguments)
        results.append(CALLS_BY_NAME[name].decode_result(channels[0].receive()))

    assert results == [[], "secret", [LeaseResult(LEASE, acknowledged=True)], None, []]
    node.instances.settle_messages.assert_called_once()


def test_started_call_is_abandoned_when_its_connection_ends(node: Node, channels: list[Channel]) -> None:
    waiting = StartedCall(PAGE)
    node.instances.start_acquire.side_effect = [waiting]
    send_call(channels[0], "acquire_messages", QUEUE, 1, 5.0, 30.0)
    wait_for(lambda: node.instances.start_acquire.called)

    channels[0].close()

    assert waiting.is_abandoned.wait(scaled(30))
    waiting.complete()
    done = StartedCall([])
    done.complete()
    node.instances.start_settle.side_effect = [done]
    send_call(channels[1], "settle_messages", QUEUE, [LEASE], "acknowledge")
    assert CALLS_BY_NAME["settle_messages"].decode_result(channels[1].receive()) == []
    node.instances.release_page.assert_not_called()

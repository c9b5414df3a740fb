"""`kafka-http work` before a server with a prepared queue: what a command gets, what its exit status does, stops."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kafka_http.cli.client_address import ServerAddress
from kafka_http.cli.client_queue import WorkQueue
from kafka_http.cli.client_requests import ApiClient
from kafka_http.cli.main import main
from kafka_http.cli.message_command import MessageCommand
from kafka_http.cli.message_work import MessageWork, WorkReport
from kafka_http.cli.queue_worker import QueueWorker
from tests.support.stub_api import NO_ANSWER, Answer, Request, stub_api
from tests.support.stub_queue import LEASE_LOST, StubQueue

CaptureFixture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("KAFKA_HTTP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Let signals have their effect. `nohup` and background jobs of shells ignore some, and so does what they start."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def work(queue: StubQueue, command: str, *flags: str) -> int:
    """Run the command until the queue is empty. Return the exit status."""
    with stub_api(answer=queue) as api:
        return main(["work", "orders", "w", "--url", api.url, "--exec", command, "--until-empty", *flags])


def in_turn(*answers: Answer | None) -> Callable[[Request], Answer | None]:
    """Answers the first requests; None is for the answer of the queue."""
    left = iter(answers)
    return lambda _: next(left, None)


def of_method(method: str, *answers: Answer) -> Callable[[Request], Answer | None]:
    """Answers the first requests of a method."""
    left = iter(answers)
    return lambda request: next(left, None) if request.method == method else None


def test_message_is_on_stdin_byte_for_byte_and_the_rest_in_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_HTTP_API_KEY", "hush")
    monkeypatch.setenv("KAFKA_HTTP_KAFKA__SASL_PLAIN_PASSWORD", "hush")
    monkeypatch.setenv("OTHER", "kept")
    message = {"value": "AP8NCiA=", "format": "binary", "key": "YWRh", "key_format": "binary"}
    headers = [["trace-id", "1"], ["trace-id", "2\n"], ["no", None], ["ä", {"base64": "/w=="}], ["zero", "\0"]]

    assert work(StubQueue({**message, "headers": headers}), "cat > value; env -0 > variables") == 0

    assert (tmp_path / "value").read_bytes() == b"\x00\xff\r\n "
    variables = dict(each.split(b"=", 1) for each in (tmp_path / "variables").read_bytes().split(b"\0")[:-1])
    assert variables[b"OTHER"] == b"kept"
    url = variables.pop(b"KAFKA_HTTP_URL")
    assert url.startswith(b"http://127.0.0.1:")
    assert {
        name.removeprefix(b"KAFKA_HTTP_"): value for name, value in variables.items() if b"KAFKA_HTTP_" in name
    } == {
        b"TOPIC": b"orders",
        b"CONSUMER": b"w",
        b"PARTITION": b"0",
        b"OFFSET": b"0",
        b"TIMESTAMP": b"7",
        b"ATTEMPT": b"1",
        b"LEASE": b"0:0:0.m1",
        b"KEY": b"ada",
        b"HEADER_TRACE_ID": b"2\n",
        b"HEADER__": b"\xff",
        b"HEADER_ZERO_BASE64": b"AA==",
    }


def test_tombstone_and_missing_key_are_told_from_empty_ones() -> None:
    tombstone = {"value": None, "format": None, "key": None}
    empty = {"value": "", "format": "binary", "key": "", "key_format": "binary"}
    queue = StubQueue(tombstone, empty)
    command = 'test -z "$(cat)" || exit 1; echo "${KAFKA_HTTP_TOMBSTONE-no} ${KAFKA_HTTP_KEY-none}" >> seen'
    assert work(queue, command) == 0
    assert Path("seen").read_text() == "true none\nno \n"


def test_command_that_reads_nothing_is_acknowledged() -> None:
    queue = StubQueue(b"x" * 1_000_000)
    assert work(queue, "true") == 0
    assert queue.acknowledged == [0]


def test_stdin_is_a_complete_file_before_the_command_starts() -> None:
    """A command whose worker is killed must not take a part of the message for all of it, as with a pipe."""
    queue = StubQueue(b"x" * 1_000_000)
    assert work(queue, "test -f /dev/stdin") == 0


def test_headers_too_long_for_a_variable_are_left_out() -> None:
    queue = StubQueue({"value": "", "format": "binary", "headers": [["long", "x" * 200_000], ["short", "y"]]})
    assert work(queue, 'test "${KAFKA_HTTP_HEADER_LONG-none}$KAFKA_HTTP_HEADER_SHORT" = noney') == 0


def test_concurrent_commands_acknowledge_all_messages(capsys: CaptureFixture) -> None:
    """The commands wait for each other, so that they must run at the same time."""
    queue = StubQueue(*[b""] * 6)
    command = "touch started-$KAFKA_HTTP_OFFSET; while [ $(ls started-* | wc -l) -lt 3 ]; do sleep 0.02; done"
    assert work(queue, command, "--concurrency", "3") == 0
    assert sorted(queue.acknowledged) == [0, 1, 2, 3, 4, 5]
    assert all(int(each["limit"]) <= 3 for each in queue.acquires)
    assert capsys.readouterr().err == "kafka-http: Messages acknowledged: 6.\n"


def test_failed_command_gives_the_message_back_after_the_delay(capsys: CaptureFixture) -> None:
    queue = StubQueue(b"", returning=["7"])
    assert work(queue, 'test "$KAFKA_HTTP_ATTEMPT" = 3 || exit 4', "--retry-delay", "7") == 0
    assert (queue.locks, queue.acknowledged) == (["7", "7"], [0])
    said = "Message 0:0, attempt 1: the command exited with 4. The message is delivered again in 7 s.\n"
    err = capsys.readouterr().err
    assert said in err
    assert err.endswith("Messages acknowledged: 1, given back: 2.\n")


def test_last_attempt_that_fails_rejects_the_message(capsys: CaptureFixture) -> None:
    queue = StubQueue(b"bad", b"good", attempts=2)
    flags = ("--retry-delay", "0", "--dead", "dead-orders")
    assert work(queue, "grep -q good", *flags) == 1
    assert (queue.rejected, queue.acknowledged, queue.locks) == ([0], [1], ["0"])
    assert {each["dead"] for each in queue.acquires} == {"dead-orders"}
    said = "This was the last attempt, so the message is rejected and goes to dead-orders.\n"
    err = capsys.readouterr().err
    assert f"Message 0:0, attempt 2: the command exited with 1. {said}" in err
    assert err.endswith("Messages acknowledged: 1, given back: 1, rejected: 1.\n")


def test_last_attempt_without_dead_letters_says_that_the_message_is_not_delivered_again(capsys: CaptureFixture) -> None:
    assert work(StubQueue(b"bad", attempts=2), "false", "--retry-delay", "0") == 1
    assert "last attempt, so the message is rejected and not delivered again.\n" in capsys.readouterr().err


def test_command_that_does_not_exist_ends_the_worker_and_rejects_nothing(capsys: CaptureFixture) -> None:
    queue = StubQueue(b"", b"", attempts=2)
    queue.before = lambda request: None if request.method != "GET" else pytest.fail("asked for the attempts")
    assert work(queue, "no-such-command") == 2
    assert (queue.rejected, queue.acknowledged, queue.locks) == ([], [], ["10"])
    assert "The shell cannot run the command (exit status 127). Check --exec." in capsys.readouterr().err


def test_lock_is_renewed_while_the_command_runs() -> None:
    queue = StubQueue(b"", b"")

    def release_after_renewals(request: Request) -> None:
        if request.method == "PUT" and len(queue.locks) > 4:
            Path("renewed").touch()

    queue.before = release_after_renewals
    command = "until [ -e renewed ]; do sleep 0.02; done"
    assert work(queue, command, "--lock", "1.5", "--concurrency", "2") == 0
    assert sorted(queue.acknowledged) == [0, 1]
    assert set(queue.locks) == {"1.5"}
    assert {each["lock"] for each in queue.acquires} == {"1.5"}


def test_lease_that_is_lost_while_the_command_runs_is_reported(capsys: CaptureFixture) -> None:
    queue = StubQueue(b"lost", b"kept")

    def lose(request: Request) -> None:
        if request.method == "PUT" and "/0:0:" in request.path:
            lease, offset = next(iter(queue.held.items()))
            queue.lag_of_others -= 1  # another worker does it
            del queue.held[lease]
            threading.Timer(0, Path("lost").touch).start()
            assert offset == 0

    queue.before = lose
    assert work(queue, "grep -q kept || until [ -e lost ]; do sleep 0.02; done", "--lock", "1") == 0
    assert queue.acknowledged == [1]
    err = capsys.readouterr().err
    assert "Message 0:0, attempt 1: the command exited with 0, but the server did not note it: " in err
    assert err.endswith("Messages acknowledged: 1, not noted: 1.\n")


def test_acknowledgement_of_a_lost_lease_is_reported(capsys: CaptureFixture) -> None:
    lost = Answer.json({"leases": [{"lease": "0:0:0.m1", "error": LEASE_LOST}]}, 409)
    queue = StubQueue(b"")
    queue.before = of_method("DELETE", lost)
    queue.lag_of_others = -1
    assert work(queue, "true") == 0
    said = "the command exited with 0, but the server did not note it: This lease has ended.\n"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("failure", [NO_ANSWER, Answer.error(503, Retry_After="0"), Answer(502, b"<html>")])
def test_server_that_is_away_for_a_moment_is_asked_again(failure: Answer, capsys: CaptureFixture) -> None:
    queue = StubQueue(b"", b"")
    failing = iter([False, True, True, False, True])  # acquire; acknowledge twice; acquire twice
    queue.before = lambda _: failure if next(failing, False) else None
    assert work(queue, "true") == 0
    assert queue.acknowledged == [0, 1]
    err = capsys.readouterr().err
    assert err.count("Retrying.") == err.count("Connected again.") == 1


def test_acknowledgement_without_a_lock_left_is_not_repeated(capsys: CaptureFixture) -> None:
    entry = {"lease": "0:0:0.m1", "error": {"code": 503, "message": "The node does not answer."}}
    queue = StubQueue(b"")
    queue.before = of_method("DELETE", *[Answer.json({"leases": [entry]}, 503)] * 50)
    queue.lag_of_others = -1
    assert work(queue, "true", "--lock", "1") == 0
    said = "did not note it: The node does not answer. It is delivered again when its lock ends.\n"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (NO_ANSWER, 1, "closed the connection"),
        (Answer.error(40401, "Topic not found: orders.", {"topic": "orders"}), 3, "Topic not found"),
        (Answer.error(40905, "The name w is an ordinary consumer."), 1, "The name w is an ordinary consumer."),
        (Answer.error(40301, "No."), 4, "No."),
        (Answer.error(501, "The brokers have no share groups."), 1, "The brokers have no share groups."),
    ],
)
def test_first_call_that_fails_ends_the_worker(answer: Answer, status: int, said: str, capsys: CaptureFixture) -> None:
    queue = StubQueue(b"")
    queue.before = in_turn(answer)
    assert work(queue, "true") == status
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_topic_that_is_deleted_ends_the_worker_after_its_commands(capsys: CaptureFixture) -> None:
    queue = StubQueue(b"")
    gone = Answer.error(40401, "Topic not found: orders.", {"topic": "orders"})
    queue.before = lambda request: gone if request.method == "POST" and queue.acquires else None
    assert work(queue, "true", "--concurrency", "2") == 3
    assert queue.acknowledged == [0]
    assert "Topic not found: orders. Messages acknowledged: 1.\n" in capsys.readouterr().err


def test_messages_that_others_hold_keep_the_worker_until_they_are_settled() -> None:
    queue = StubQueue(b"")
    queue.lag_of_others = 3

    def settle_one(request: Request) -> None:
        queue.lag_of_others -= request.method == "GET"

    queue.before = settle_one
    assert work(queue, "true") == 0
    assert queue.lag_of_others == 0


def test_warnings_and_blocked_partitions_are_said_once(capsys: CaptureFixture) -> None:
    queue = StubQueue(b"", b"")
    queue.extra = {
        "warnings": ["The queue starts at the end of the topic."],
        "blocked": [{"partition": 3, "offset": 17, "lease": "3:17:0.m1"}],
    }
    assert work(queue, "true") == 0
    err = capsys.readouterr().err
    assert err.count("The queue starts at the end of the topic.\n") == 1
    assert err.count("Partition 3 has no further messages until 17 is done.\n") == 1


def endless(queue: StubQueue, command: str, *flags: str) -> int:
    """Run the command until a signal. It is a child process of this one, so that it can send the signal."""
    with stub_api(answer=queue) as api:
        return main(["work", "orders", "w", "--url", api.url, "--exec", command, *flags])


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(("name", "status"), [("INT", 130), ("TERM", 0), ("HUP", 0)])
def test_signal_lets_running_commands_end_and_leaves_nothing_held(
    name: str, status: int, capsys: CaptureFixture
) -> None:
    queue = StubQueue(*[b""] * 50)
    assert endless(queue, f"kill -{name} $PPID; sleep 0.2; touch done-$KAFKA_HTTP_OFFSET") == status
    assert len(queue.acknowledged) == len(list(Path().glob("done-*"))) >= 1
    assert queue.held == {}
    assert "Stopping: waiting for 1 running command. Press Ctrl-C again to kill it.\n" in capsys.readouterr().err


@pytest.mark.usefixtures("default_signals")
def test_second_signal_kills_commands_and_gives_messages_back(capsys: CaptureFixture) -> None:
    """The child processes of a command end, too. The signals are two, because two of one kind may come as one."""
    queue = StubQueue(b"")
    command = "trap '' INT TERM; kill -INT $PPID; kill -TERM $PPID; sleep 600 & sleep 600; true"
    assert endless(queue, command) in (0, 130)  # either may come first
    assert (queue.locks, queue.acknowledged, queue.rejected, queue.held) == (["0"], [], [], {})
    err = capsys.readouterr().err
    assert "Killing 1 command and giving their messages back." in err
    assert err.endswith("Messages acknowledged: 0, given back: 1.\n")


def test_page_that_comes_after_the_stop_is_given_back() -> None:
    queue = StubQueue(*[b""] * 3)
    with stub_api(answer=queue) as api:
        calls = WorkQueue(ApiClient(ServerAddress(api.url, {})), "orders", "w", 30, None)
        worker = QueueWorker(
            calls, MessageWork(calls, MessageCommand("false", {}), 10, WorkReport()), 5, until_empty=False
        )
        queue.before = lambda request: (worker.stop(), None)[1] if request.method == "POST" else None
        worker.run()
    assert (sorted(queue.waiting), queue.locks, len(queue.acquires)) == ([0, 1, 2], ["0"] * 3, 1)


def test_leases_of_many_messages_are_renewed_in_calls_of_a_hundred() -> None:
    with stub_api(answer=StubQueue(*[b""] * 250)) as api:
        queue = WorkQueue(ApiClient(ServerAddress(api.url, {})), "orders", "w", 30, None)
        leases = [each.lease for each in queue.acquire(250, 0)]
        assert queue.extend_all([*leases, "0:9:0.x"], 30) == ["0:9:0.x"]
    assert [len(each.path.split(",")) for each in api.requests[1:]] == [100, 100, 51]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "the following arguments are required: --exec"),
        (["--exec", " "], "the command is empty"),
        (["--exec", "x", "--concurrency", "0"], "'0' is not a number from 1 to 500"),
        (["--exec", "x", "--lock", "0.5"], "'0.5' is not a number of seconds from 1 to 43200"),
        (["--exec", "x", "--lock", "nan"], "'nan' is not a number of seconds from 1 to 43200"),
        (["--exec", "x", "--retry-delay", "soon"], "'soon' is not 0 or a number of seconds from 1 to 43200"),
        (["--exec", "x", "--retry", "1"], "work has no flag --retry"),
    ],
)
def test_wrong_usage_of_work_is_status_2(flags: list[str], said: str, capsys: CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["work", "orders", "w", *flags])
    assert end.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]

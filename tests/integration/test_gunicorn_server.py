"""gunicorn as `kafka-http serve` runs it: slow and silent clients, stops, log lines."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from kafka_http.demo.local_resources import free_ports
from tests.support.key_file import KeyFile
from tests.support.polling import scaled, wait_for

ROOT = Path(__file__).parents[2]
OURS = "kafka_http.server.worker.Worker"
TINY = ("-m", "tests.support.wsgi_test_app")
THREADS = 4


class Server:
    """A server process in a process group of its own, its output in files."""

    def __init__(
        self, directory: Path, command: Sequence[str], stdin: int = subprocess.DEVNULL, **settings: Any
    ) -> None:
        self.port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        self._out, self._err = directory / "out", directory / "err"
        given = {"bind": "127.0.0.1:{port}", "workers": 1, "threads": THREADS} | settings
        self.home = directory
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_HTTP_")}
        texts = {name.upper(): str(value).format(port=self.port) for name, value in given.items()}
        environment |= {f"KAFKA_HTTP_{name}": text for name, text in texts.items()}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(port=self.port) for part in command)],
                cwd=ROOT,
                env=environment | {"HOME": str(directory), "XDG_RUNTIME_DIR": str(directory)},
                stdin=stdin,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def workers(self) -> set[int]:
        listed = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return {int(pid) for pid in listed.stdout.split()}

    @property
    def out(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def err(self) -> list[str]:
        return self._err.read_text().splitlines()

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.process.poll() is not None or self._answers(), 15)
        assert self.process.poll() is None, self.err

    def _answers(self) -> bool:
        with suppress(requests.ConnectionError):
            return self.get("/").status_code < 500
        return False

    def get(self, path: str, timeout: float = 20, **more: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=timeout, **more)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, data: bytes) -> bytes:
        """Send the data and return everything that the server sends until it closes the connection."""
        with self.connect() as client:
            client.sendall(data)
            return read_all(client)

    def in_flight(self, path: str) -> Callable[[], requests.Response]:
        """Start a request and wait until it runs. The returned function waits for the response."""
        answers: list[requests.Response] = []
        thread = Thread(target=lambda: answers.append(self.get(path)))
        thread.start()
        wait_for(lambda: f"at {path}" in self.out, 15)

        def answer() -> requests.Response:
            thread.join(scaled(20))
            assert answers, "no response"
            return answers[0]

        return answer

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(scaled(10))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def read_all(client: socket.socket) -> bytes:
    received = b""
    while part := client.recv(65536):
        received += part
    return received


ServerFactory = Callable[..., Server]

pytestmark = pytest.mark.usefixtures("hang_up")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[ServerFactory]:
    """Return a function that starts a server. By default it serves the tiny application as `kafka-http serve` does."""
    with ExitStack() as stack:

        def start_one(*command: str, **settings: Any) -> Server:
            server = Server(tmp_path, [*(command or ("-m", "tests.support.wsgi_test_app"))], **settings)
            stack.callback(server.stop)
            server.wait_until_ready()
            wait_for(lambda: str(server.err).count("Booting worker") == settings.get("workers", 1), 15)
            return server

        yield start_one


@pytest.fixture
def terminal_input() -> Iterator[int]:
    """The descriptor of a terminal."""
    ours, theirs = os.openpty()
    yield theirs
    os.close(theirs)
    os.close(ours)


def gunicorn(worker_class: str, app: str) -> list[str]:
    bind = ["-b", "127.0.0.1:{port}", "--no-control-socket"]
    return ["-m", "gunicorn", "-k", worker_class, "--threads", str(THREADS), *bind, app]


CLOSING = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "worker_class",
    [
        OURS,
        pytest.param("gthread", marks=pytest.mark.xfail(strict=True, reason="the reason for our own worker class")),
    ],
)
def test_half_open_clients_do_not_delay_others(start: ServerFactory, worker_class: str) -> None:
    server = start(*gunicorn(worker_class, "tests.support.wsgi_test_app:app"))
    with ExitStack() as stack:
        for _ in range(3 * THREADS):
            client = stack.enter_context(server.connect())
            client.sendall(CLOSING)
            assert read_all(client).endswith(b"ok")
            begun = time.monotonic()
            assert server.get("/").text == "ok"
            assert time.monotonic() - begun < (scaled(1) if worker_class == OURS else 1)


@pytest.mark.parametrize(
    "worker_class",
    [
        OURS,
        pytest.param("gthread", marks=pytest.mark.xfail(strict=True, reason="silent clients occupy its threads")),
    ],
)
def test_silent_clients_do_not_delay_others(start: ServerFactory, worker_class: str) -> None:
    server = start(*gunicorn(worker_class, "tests.support.wsgi_test_app:app"))
    with ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(3 * THREADS)]
        begun = time.monotonic()
        assert server.get("/", timeout=scaled(3) if worker_class == OURS else 3).text == "ok"
        assert time.monotonic() - begun < (scaled(1) if worker_class == OURS else 1)

        silent[0].sendall(CLOSING)
        assert read_all(silent[0]).endswith(b"ok")


def test_half_open_client_is_disconnected_after_linger_time(start: ServerFactory) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(CLOSING)
        read_all(client)

        def is_let_go() -> bool:
            try:
                client.sendall(b"x")
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        begun = time.monotonic()
        wait_for(is_let_go, 8)
        assert time.monotonic() - begun > 1


def test_response_arrives_even_if_body_was_not_read(start: ServerFactory) -> None:
    server = start()
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\nConnection: close\r\n\r\n"

    for _ in range(20):
        assert server.send(head + b"x" * 60000).endswith(b"ok")


def test_idle_connection_stays_open_between_requests(start: ServerFactory) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not client.recv(65536).endswith(b"ok"):
            pass
        readable, _, _ = select.select([client], [], [], 3.5)
        assert readable == [], "the server closed the connection"

        client.sendall(CLOSING)
        assert read_all(client).endswith(b"ok")


@pytest.mark.parametrize(
    "begin",
    [
        b"GET / HTTP/1.1\r\nHo",
        b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx",
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nx",
        b"POST /messages/t HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx",
    ],
    ids=["head", "body", "chunks", "publish"],
)
def test_slow_requests_do_not_delay_others(start: ServerFactory, begin: bytes) -> None:
    """Each slow request occupied a thread until its client continued."""
    server = start()
    with ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(5 * THREADS)]
        for each in slow:
            each.sendall(begin)
        for _ in range(10):
            assert server.get("/").text == "ok"
        for each in slow:
            each.sendall(b"x")
        assert server.get("/").text == "ok"


@pytest.mark.slow
def test_slow_requests_are_closed_with_408(start: ServerFactory) -> None:
    server = start()
    with server.connect() as head, server.connect() as body:
        head.sendall(b"GET / HTTP/1.1\r\nHo")
        body.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nx")
        begun = time.monotonic()
        assert read_all(head).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert time.monotonic() - begun > 9
        assert read_all(body).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert time.monotonic() - begun > 19
    assert not any("Traceback" in line for line in server.err)


def test_unread_responses_use_no_thread(start: ServerFactory) -> None:
    server = start()
    with ExitStack() as stack:
        for _ in range(5 * THREADS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: server.out.count("at /large") == 5 * THREADS)
        assert server.get("/").text == "ok"
        assert server.out.count("closed /large") == 0, "a response is not closed before its client has it"
        client.settimeout(5)
        received = 0
        while received < 20_000_000:
            received += len(client.recv(1 << 20))
        wait_for(lambda: server.out.count("closed /large") == 1)
    wait_for(lambda: server.out.count("closed /large") == 5 * THREADS)


def test_too_many_open_files_pauses_accepting_and_ends_no_worker(tmp_path: Path) -> None:
    """The error EMFILE in accept ended the worker."""
    few = "import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
    server = Server(tmp_path, ["-c", few + "runpy.run_module('tests.support.wsgi_test_app', run_name='__main__')"])
    try:
        server.wait_until_ready()
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(server.connect())
            wait_for(lambda: any("Cannot accept connections: Too many open files" in line for line in server.err))
            assert server.get("/", timeout=10).text == "ok"
        assert server.get("/", timeout=10).text == "ok"
        assert sum("Cannot accept connections" in line for line in server.err) == 1
        assert sum("Booting worker" in line for line in server.err) == 1
    finally:
        server.stop()


def test_health_uses_no_thread_of_the_pool(start: ServerFactory, tmp_path: Path) -> None:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # a broker that never answers
        broker = f"127.0.0.1:{silent.getsockname()[1]}"
        data_dir = str(tmp_path / "data")
        server = start(*gunicorn(OURS, "wsgi:app"), bootstrap_servers=broker, timeout=15, data_dir=data_dir)
        for number in range(10 * THREADS):
            client = stack.enter_context(server.connect())
            client.sendall(b"PUT /messages/t%d HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\n1" % number)
        for _ in range(10):
            assert server.get("/health", timeout=10).json() == {"status": "ok"}
        assert select.select([client], [], [], 0)[0] == [], "the threads must have been busy all the time"
        assert server.get("/ready", timeout=30).status_code == 503


@pytest.mark.parametrize("worker_class", ["gthread", OURS])
def test_empty_line_before_a_request_is_skipped(start: ServerFactory, worker_class: str) -> None:
    server = start(*gunicorn(worker_class, "tests.support.wsgi_test_app:app"))
    assert server.send(b"\r\n" + CLOSING).endswith(b"ok")


def test_empty_lines_between_requests_are_skipped(start: ServerFactory) -> None:
    with start().connect() as client:
        for blank in (b"\r\n\r\n", b"", b"\r\n"):
            client.sendall(blank + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n")
            received = b""
            while not received.endswith(b"ok"):
                received += client.recv(65536)


@pytest.mark.parametrize("version", [b"1.2", b"1.9"])
def test_later_minor_version_gets_http_1_1_response(start: ServerFactory, version: bytes) -> None:
    answer = start().send(CLOSING.replace(b"1.1", version))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


def test_longest_request_line_is_accepted(start: ServerFactory) -> None:
    server = start()
    line = b"GET /" + b"a" * (8190 - len("GET / HTTP/1.1")) + b" HTTP/1.1\r\n"

    assert server.send(line + b"Host: x\r\nConnection: close\r\n\r\n").endswith(b"ok")


@pytest.mark.parametrize(
    ("request_bytes", "status", "said"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "8190"),
        (b"HELLO\r\n\r\n", 400, "Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400, "Bad Request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431, "Request Header Fields Too Large"),
    ],
)
def test_invalid_http_gets_error_in_json(start: ServerFactory, request_bytes: bytes, status: int, said: str) -> None:
    head, _, body = start().send(request_bytes).partition(b"\r\n\r\n")

    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Cache-Control: no-store" in head
    assert f"Content-Length: {len(body)}".encode() in head.splitlines()
    assert body.endswith(b"}\n")
    error = requests.models.complexjson.loads(body)["error"]
    assert error["code"] == status
    assert said in error["message"]


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(lambda server: server.process.terminate(), id="SIGTERM"),
        pytest.param(lambda server: os.killpg(server.process.pid, signal.SIGINT), id="Ctrl-C"),
        pytest.param(lambda server: os.killpg(server.process.pid, signal.SIGTERM), id="SIGTERM for all"),
        pytest.param(lambda server: os.killpg(server.process.pid, signal.SIGHUP), id="terminal closed"),
    ],
)
def test_stop_answers_requests_in_flight_and_then_closes(
    start: ServerFactory, stop: Callable[[Server], None], terminal_input: int
) -> None:
    server = start(workers=2, stdin=terminal_input)
    answers = [server.in_flight("/sleep/1"), server.in_flight("/until-stop")]

    stop(server)

    assert [answer().text for answer in answers] == ["ok", "ok"]
    assert server.process.wait(scaled(10)) == 0
    told = [line for line in server.out if not line.startswith("at /")]
    assert told[0] == "ready"
    assert sorted(told[1:-2]) == ["closed", "closed", "stopping", "stopping"]
    assert told[-2:] == ["returned", "at exit"], "once only: no worker returns from run()"


def reloads(server: Server) -> list[int]:
    """Return the processes that have reloaded, in order."""
    return [int(line.removeprefix("reloaded ")) for line in server.out if line.startswith("reloaded ")]


def test_sighup_reloads_the_arbiter_and_each_worker_without_replacing_them(start: ServerFactory) -> None:
    server = start(workers=2)
    before = server.workers
    in_flight = [server.in_flight("/sleep/1.5"), server.in_flight("/until-stop")]
    with server.connect() as kept:
        for count in range(1, 4):
            os.killpg(server.process.pid, signal.SIGHUP)  # as a closed terminal does: the workers get it twice
            wait_for(lambda count=count: sorted(reloads(server)) == sorted([server.process.pid, *before] * count), 10)
        kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(kept).endswith(b"ok")
    assert reloads(server)[0] == server.process.pid, "the arbiter is first"
    assert in_flight[0]().text == "ok"
    assert server.workers == before
    server.process.terminate()
    assert in_flight[1]().text == "ok"


def test_reload_that_fails_in_the_arbiter_is_logged_once_and_reaches_no_worker(
    start: ServerFactory, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("", "utf-8")
    server = start(workers=2, config=file)
    before = server.workers
    for faulty, reason in (('data_dir = "faulty"', "The settings are faulty."), ("workers = [", "is not TOML")):
        file.write_text(faulty, "utf-8")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda reason=reason: any(reason in line for line in server.err), 10)
    file.write_text("threads = 5\n[consumer]\nclient_id = 'kh_planted'", "utf-8")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(reloads(server)) == 3, 10)
    assert set(reloads(server)) == {server.process.pid, *before}
    failures = [line for line in server.err if "Reload failed" in line]
    assert [" ERROR " in line for line in failures] == [True, True]
    (warning,) = [line for line in server.err if "need a restart" in line]
    assert warning.endswith("These settings have changed and need a restart: consumer.client_id.")
    assert not any("planted" in line for line in server.err)
    assert server.workers == before


def test_worker_started_after_a_reload_has_what_the_arbiter_has(start: ServerFactory) -> None:
    server = start(workers=1)
    (before,) = server.workers
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(reloads(server)) == 2, 10)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: server.workers and before not in server.workers, 10)
    server.get("/")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(reloads(server)) == 4, 10)
    assert reloads(server) == [server.process.pid, before, server.process.pid, *server.workers]


def test_sighup_is_ignored_under_nohup(start: ServerFactory) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the server inherits it
    server = start()
    before = server.workers
    os.killpg(server.process.pid, signal.SIGHUP)
    assert server.get("/sleep/1").text == "ok"
    assert server.workers == before
    assert not any("Hang up" in line for line in server.err)


def test_second_ctrl_c_stops_at_once(start: ServerFactory) -> None:
    server = start()
    with server.connect() as client:
        client.sendall(b"GET /sleep/19 HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: "at /sleep/19" in server.out, 15)
        os.killpg(server.process.pid, signal.SIGINT)
        wait_for(lambda: "stopping" in server.out, 15)
        begun = time.monotonic()
        os.killpg(server.process.pid, signal.SIGINT)

        server.process.wait(scaled(10))
        assert time.monotonic() - begun < scaled(8)
    assert "closed" in server.out


def test_idle_connections_do_not_delay_stop(start: ServerFactory) -> None:
    server = start()
    with server.connect(), server.connect() as kept:
        kept.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not kept.recv(65536).endswith(b"ok"):
            pass
        begun = time.monotonic()
        server.process.terminate()

        assert server.process.wait(scaled(10)) == 0
        assert time.monotonic() - begun < scaled(6)


def test_workers_end_when_main_process_is_killed(start: ServerFactory) -> None:
    server = start(workers=2)

    server.process.kill()

    def nobody_listens() -> bool:
        try:
            server.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    wait_for(nobody_listens, 15)
    wait_for(lambda: server.out.count("closed") == 2, 15)


def test_home_directory_has_no_control_socket(start: ServerFactory) -> None:
    server = start()

    assert {path.name for path in server.home.iterdir()} == {"out", "err"}


def test_access_log_has_one_line_per_request(start: ServerFactory) -> None:
    server = start(access_log="true")
    server.get("/sleep/0?x=1", headers={"X-Request-Id": "r-1"})

    def lines() -> list[str]:
        return [line for line in server.out if "gunicorn.access" in line and "/sleep/0" in line]

    wait_for(lines, 15)  # the line is written after the response
    (line,) = lines()
    assert re.fullmatch(
        r'\S+Z INFO \d+ r-1 gunicorn\.access: 127\.0\.0\.1 - "GET /sleep/0\?x=1 HTTP/1\.1" 200 2 bytes \d+ ms "\S+" '
        r"route=none topic=- records=0 bytes_in=0 kafka_seconds=0\.000 trace_id=-",
        line,
    )


def test_all_lines_of_all_processes_are_json_objects(start: ServerFactory) -> None:
    server = start(access_log="true", log_format="json", log_level="debug", console="true")
    server.get("/sleep/0?x=1", headers={"X-Request-Id": "r-1"})
    server.get("/tasks", headers={"X-Console-Poll": "true"})
    with server.connect() as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(100)

    def requests_logged() -> dict[tuple[str, int, str], str | None]:
        access = [json.loads(line) for line in server.out if "gunicorn.access" in line]
        return {(each["path"], each["status"], each["level"]): each.get("request_id") for each in access}

    expected = {("/sleep/0", 200, "INFO"), ("/tasks", 200, "DEBUG")}
    wait_for(lambda: expected <= requests_logged().keys(), 15)
    assert requests_logged()["/sleep/0", 200, "INFO"] == "r-1"
    server.process.terminate()
    assert server.process.wait(scaled(30)) == 0
    logged = [json.loads(line) for line in server.err]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(each) for each in logged))
    assert any(each["message"].startswith("Listening at: ") for each in logged)
    assert len({each["process"] for each in logged}) >= 2


@pytest.mark.parametrize("console", [True, False])
def test_access_log_leaves_out_console_polls_only(start: ServerFactory, console: bool) -> None:
    server = start(access_log="true", console=str(console).lower())
    polls = ["/messages/t", "/messages/t/c", "/messages/t/c/queue", "/instances", "/tasks"]
    others = ["/messages/t/c/0", "/messages/t/c/queue/0:1:0.a1", "/console"]
    for path in polls + others:
        server.get(path, headers={"X-Console-Poll": "true"})
        server.get(f"{path}?by=hand")
    requests.put(server.url + "/messages/t", headers={"X-Console-Poll": "true"}, timeout=20)

    wait_for(lambda: any('"PUT /messages/t ' in line for line in server.out), 15)
    wait_for(lambda: sum("by=hand" in line for line in server.out) == len(polls + others), 15)
    logged = {path for path in polls + others if any(f'"GET {path} ' in line for line in server.out)}
    assert logged == set(others if console else polls + others)


def test_access_log_is_off_by_default(start: ServerFactory) -> None:
    server = start()
    server.get("/")

    wait_for(lambda: server.out == ["ready"], 15)
    assert all(re.match(r"\S+Z INFO \d+ - kafka_http\.server: ", line) for line in server.err)


def test_non_local_address_is_logged_as_warning(start: ServerFactory) -> None:
    server = start(bind="0.0.0.0:{port}")

    assert any("WARNING" in line and "without authentication" in line for line in server.err)


@pytest.mark.parametrize("bind", ["192.0.2.1:{port}", "nowhere.invalid:{port}"])
def test_unavailable_address_exits_with_one_line(tmp_path: Path, bind: str) -> None:
    server = Server(tmp_path, TINY, bind=bind)

    assert server.process.wait(scaled(30)) == 1
    (line,) = server.err
    assert line.startswith(f"Cannot listen on {bind.format(port=server.port)}: ")


@pytest.mark.parametrize("worker_class", ["gthread", OURS])
def test_gunicorn_command_serves_the_application(start: ServerFactory, worker_class: str) -> None:
    server = start(*gunicorn(worker_class, "wsgi:app"), bootstrap_servers="127.0.0.1:1")

    answer = server.get("/health")
    assert answer.status_code == 200
    server.process.terminate()
    assert server.process.wait(scaled(15)) == 0


@pytest.mark.parametrize("worker_class", ["gthread", OURS])
def test_sighup_to_gunicorn_with_preload_app_revokes_a_key(
    start: ServerFactory, worker_class: str, tmp_path: Path
) -> None:
    """New workers are forks of the process that has read the keys at the start."""
    keys, file = KeyFile(tmp_path / "keys.toml", ["kept", "revoked"]), tmp_path / "settings.toml"
    file.write_text(f'[auth]\nkeys = "{keys.path}"\n', "utf-8")
    command = [*gunicorn(worker_class, "wsgi:app"), "--preload"]
    server = start(*command, bootstrap_servers="127.0.0.1:1", config=file, data_dir=tmp_path / "data")

    def statuses() -> list[int]:
        return [server.get("/access", headers=keys.headers(name)).status_code for name in ("kept", "revoked")]

    assert statuses() == [200, 200]
    (before,) = server.workers
    keys.revoke("revoked")
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: len(server.workers) == 1 and before not in server.workers, 15)
    assert statuses() == [200, 401]
    keys.path.write_text("[kept", "utf-8")
    server.process.send_signal(signal.SIGHUP)
    if worker_class == OURS:
        assert server.process.wait(scaled(15)) == 3
    else:
        wait_for(lambda: statuses() == [503, 503], 15)
    assert any("keys.toml (auth.keys) is not TOML" in line for line in server.err)

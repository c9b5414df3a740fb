"""The bench without a Kafka: its arguments, its requests, its load loop against a small server, its tables."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread

import pytest

from kafka_http.bench.conversations import (
    Address,
    ConsumeConversation,
    PublishConversation,
    ReadConversation,
    RequestFailed,
)
from kafka_http.bench.errors import BenchError
from kafka_http.bench.generator import Generator, Tally
from kafka_http.bench.results import MANY, ONE_BY_ONE, Baseline, BenchResult, BenchRow, Machine, percentile, read_result
from kafka_http.bench.services import as_toml
from kafka_http.bench.tables import comparison, table
from kafka_http.cli.main import main
from kafka_http.config.sources import load_config
from kafka_http.demo.ports import free_ports


@dataclass
class Behaviour:
    """How the small server answers, and what it was asked."""

    status: int = 200
    body: bytes = b"{}"
    delay: float = 0.0
    closes: bool = False
    has_length: bool = True
    bodies: list[bytes] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: "Small"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        behaviour = self.server.behaviour
        behaviour.bodies.append(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        time.sleep(behaviour.delay)
        self.send_response(behaviour.status)
        if behaviour.has_length:
            self.send_header("Content-Length", str(len(behaviour.body)))
        if behaviour.closes:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(behaviour.body)

    def log_message(self, format: str, *args: object) -> None:
        """It has nothing to log to."""


class Small(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> Address:
        return Address(f"http://127.0.0.1:{self.server_port}")


@pytest.fixture
def small() -> Iterator[Small]:
    with Small() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def load(small: Small, connections: int = 2, records: int = 3, size: int = 100, seconds: float = 0.3) -> Tally:
    publishing = PublishConversation(small.address, "t", "messages", records, size)
    now = time.monotonic()
    return Generator(small.address, [publishing] * connections).run(now + 0.05, now + 0.05 + seconds)


def test_one_request_after_the_other_on_each_connection_is_counted(small: Small) -> None:
    small.behaviour.delay = 0.02

    tally = load(small, connections=3)

    assert tally.errors == 0
    assert 3 * 5 < len(tally.latencies) <= 3 * 15
    assert tally.messages == 3 * len(tally.latencies)
    assert min(tally.latencies) >= 0.02
    assert len(small.behaviour.bodies) > len(tally.latencies)  # those of the warm-up and of the end are not counted


def test_large_bodies_go_and_come_whole(small: Small) -> None:
    small.behaviour.body = b"x" * 3_000_000

    tally = load(small, records=2000, size=2000)

    assert tally.errors == 0
    assert tally.messages > 0
    assert {len(json.loads(body)["records"]) for body in small.behaviour.bodies} == {2000}


@pytest.mark.parametrize("status", [207, 429, 500])
def test_what_is_no_success_is_an_error_and_the_first_are_shown(small: Small, status: int) -> None:
    small.behaviour.status, small.behaviour.body = status, b"why not"

    tally = load(small)

    assert not tally.latencies
    assert tally.messages == 0
    assert tally.errors > 0
    assert tally.first_errors == [f"{status} why not"]


def test_a_connection_that_the_server_closes_is_made_anew(small: Small) -> None:
    small.behaviour.closes = True

    tally = load(small, connections=1)

    assert tally.errors == 0
    assert len(tally.latencies) > 1


def test_an_answer_without_length_cannot_be_measured(small: Small) -> None:
    small.behaviour.has_length = False

    tally = load(small, connections=1)

    assert not tally.latencies
    assert "no Content-Length" in tally.first_errors[0]


def test_a_server_that_is_not_there() -> None:
    address = Address(f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(BenchError, match="takes no connection: Connection refused"):
        Generator(address, [PublishConversation(address, "t", "messages", 1, 100)]).run(0, 1)


def parts(request: bytes) -> tuple[str, str, bytes]:
    """Method, path and body."""
    head, _, body = request.partition(b"\r\n\r\n")
    method, path, _ = head.split(b"\r\n")[0].decode().split()
    return method, path, body


@pytest.mark.parametrize("size", [8, 100, 1000])
def test_values_are_json_of_the_size_asked_for(size: int) -> None:
    address = Address("http://host:1/base/")
    single = parts(PublishConversation(address, "t", "messages", 1, size).request)
    several = parts(PublishConversation(address, "t", "messages", 3, size).request)
    v2 = parts(PublishConversation(address, "t", "v2", 1, size).request)

    assert single[:2] == several[:2] == ("POST", "/base/messages/t")
    assert v2[:2] == ("POST", "/base/topics/t")
    assert len(single[2]) == size
    records = [json.loads(each[2])["records"] for each in (several, v2)]
    assert [len(each) for each in records] == [3, 1]
    values = [each["value"] for each in chain.from_iterable(records)]
    assert {len(json.dumps(value, separators=(",", ":"))) for value in values} == {size}


def test_a_failed_record_of_v2_is_an_error_though_the_status_is_200() -> None:
    publishing = PublishConversation(Address("http://host:1"), "t", "v2", 2, 100)

    assert publishing.take(b'{"offsets":[{"error_code":null},{"error_code": null}]}') == 2
    with pytest.raises(RequestFailed):
        publishing.take(b'{"offsets":[{"error_code":null},{"error_code": 50002}]}')


def test_a_reader_goes_on_where_the_page_ends_and_begins_again_at_the_end() -> None:
    paging = ReadConversation(Address("http://host:1"), "t", "me", 2, 3)
    begin = ("GET", "/messages/t/me/earliest?limit=2", b"")

    assert parts(paging.request) == begin
    assert paging.take(b'{"records":[{"offset":0},{"offset":1}],"next":"0:2","ack":"0:1"}') == 2
    assert parts(paging.request)[1] == "/messages/t/me/0:2?limit=2"
    assert paging.take(b'{"records":[{"offset":2}],"next":"0:3","ack":"0:2"}') == 1
    assert parts(paging.request) == begin
    assert paging.take(b'{"records":[],"next":"0:0","ack":null}') == 0
    assert parts(paging.request) == begin


def test_an_instance_is_sent_back_to_the_beginning_which_is_not_counted() -> None:
    consuming = ConsumeConversation(Address("http://host:1"), "/consumers/g/instances/i", b"{}", 3)
    records = parts(consuming.request)

    assert consuming.take(b'[{"offset":0},{"offset":1}]') == 2
    assert parts(consuming.request) == records
    assert consuming.take(b'[{"offset":2}]') == 1
    assert parts(consuming.request) == ("POST", "/consumers/g/instances/i/positions/beginning", b"{}")
    assert consuming.take(b"") is None
    assert parts(consuming.request) == records


@pytest.mark.parametrize(
    ("ordered", "percent", "value"),
    [([], 50, 0), ([7], 99, 7), ([1, 2], 50, 1), (range(1, 101), 50, 50), (range(1, 101), 99, 99), ([1, 2, 3], 90, 3)],
)
def test_percentiles(ordered: list[float], percent: float, value: float) -> None:
    assert percentile(ordered, percent) == value


def row(records: int = 1, connections: int = 1, **other: object) -> BenchRow:
    figures = {
        "seconds": 10.0, "requests": 20_000, "messages": 20_000 * records, "errors": 0,
        "p50": 1.0, "p90": 2.0, "p99": 3.0, "server_cpu": 5.0, "server_busiest": 0.5, "broker_cpu": 2.0,
        "generator_cpu": 1.0, "generator_busiest": 0.1, "machine_busy": 0.5,
    }  # fmt: skip
    return BenchRow(records=records, connections=connections, **figures | other)  # type: ignore[arg-type]


def result(*rows: BenchRow, what: str = "publish", **settings: str) -> BenchResult:
    baselines = [
        Baseline("kafka-python", ONE_BY_ONE, 1000.0, 1.1),
        Baseline("kafka-python", MANY, 40_000.0),
    ]
    machine = Machine(2, "a system", "3.11", {"kafka_http": "0.1.0"})
    options = {"records": [1, 100]}
    return BenchResult(what, "messages", 100, "a day", machine, options, settings, list(rows), baselines)  # type: ignore[arg-type]


def cells(text: str, line: int) -> str:
    return " ".join(text.splitlines()[line].split())


def test_the_table_has_a_row_for_each_combination() -> None:
    shown = table(result(row(), row(100, 16, errors=3), row(100, 64, server_cpu=None, broker_cpu=None)))

    assert cells(shown, 2) == "1 1 2,000 2,000 0.20 1 2 3 0 5 2 1 250 2.00"
    assert cells(shown, 3) == "100 16 2,000 200,000 20 1 2 3 3 5 2 1 2.5 5.00"
    assert cells(shown, 4).endswith(" - - 1 - 5.00")
    assert shown.splitlines()[5:] == [
        "without HTTP, kafka-python, one by one: 1,000 messages/s, p50 1.1 ms",
        "without HTTP, kafka-python, many in flight: 40,000 messages/s",
    ]


def test_the_table_says_what_to_know_about_its_figures() -> None:
    busy = row(1, 64, generator_busiest=0.97)
    crowded = row(100, 64, machine_busy=0.99, generator_cpu=5.0, server_cpu=11.0)
    shared = row(1000, 64, machine_busy=0.99)
    uneven = row(2000, 64, server_busiest=0.95)

    said = table(result(row(server_busiest=1.0), busy, crowded, shared, uneven)).splitlines()[9:]

    assert [each.partition(" records, 64 connections: ")[0] for each in said] == ["1", "100", "1000", "2000"]
    assert "97% of a core" in said[0]
    assert "25% of all" in said[1]
    assert "something else took 59% of the machine's cores" in said[2]
    assert "one of the server's workers did all the work" in said[3]


def test_two_runs_side_by_side() -> None:
    shown = comparison(
        result(row(), row(100, 16), workers="2"),
        result(row(100, 16, requests=30_000, messages=3_000_000), row(1000, 16), workers="4"),
    )

    assert len(shown.splitlines()) == 2 + 2 + 1
    assert cells(shown, 1).startswith("100 16 2,000 3,000 1.50 200,000 300,000 1.50 ")
    assert shown.splitlines()[-1] == "--workers: A 2, B 4"


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(BenchError, match="no row in common"):
        comparison(result(row(1)), result(row(2)))
    with pytest.raises(BenchError, match="the second of read"):
        comparison(result(row(1)), result(row(1), what="read"))


def test_a_result_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    written = result(row(), row(100, 16, server_cpu=None), workers="2")
    written.write(tmp_path / "a.json")

    assert read_result(tmp_path / "a.json") == written


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"kind": "kafka-http bench 1"}', b"\xff"])
def test_a_file_that_is_no_result(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    result(row()).write(good)
    bad.write_bytes(content)

    assert main(["bench", "--compare", str(good), str(bad)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"kafka-http bench: {bad} is no result of a bench: give a file that --json has written."


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "a.json")

    assert main(["bench", "--compare", missing, missing]) == 1
    assert capsys.readouterr().err == f"kafka-http bench: {missing} cannot be read: No such file or directory.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "publish, read, streams or memory"),
        (["memory", "--url", "http://host"], "no --url, no --json"),
        (["read", "--records", "1,,2"], "'1,,2' is no list of whole numbers"),
        (["read", "--connections", "0"], "'0' is no list of whole numbers"),
        (["publish", "--records", "x"], "'x' is no list of whole numbers"),
        (["publish", "--size", "7"], "'7' is no number of bytes from 8"),
        (["publish", "--seconds", "0"], "'0' is no number of seconds from 0.1"),
        (["publish", "--url", "https://host"], "only plain HTTP"),
        (["publish", "--url", "host:8082"], "'host:8082' is no URL such as http://127.0.0.1:8082"),
        (["write"], "invalid choice: 'write'"),
        (["--compare", "a.json"], "expected 2 arguments"),
    ],
)
def test_bad_usage_is_status_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])

    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_a_wrong_setting_of_the_server_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "publish", "--workers", "many"]) == 2
    assert "workers (command line) must be a whole number" in capsys.readouterr().err


def test_a_url_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"

    assert main(["bench", "publish", "--url", url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kafka-http bench: {url} does not answer (Connection refused): start the server")


def test_a_file_that_cannot_be_written_is_refused_beforehand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "publish", "--json", "/missing/a.json"]) == 1
    assert "/missing/a.json cannot be written: No such file or directory." in capsys.readouterr().err


@pytest.mark.parametrize("dialect", ["messages", "v2"])
def test_a_server_of_another_kind(small: Small, capsys: pytest.CaptureFixture[str], dialect: str) -> None:
    url = f"http://127.0.0.1:{small.server_port}"

    assert main(["bench", "read", "--dialect", dialect, "--topic", "t", "--url", url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("was not answered as this API does: is the --dialect right?")


def test_a_kafka_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_ports(1)[0]

    assert main(["bench", "publish", "--bootstrap-servers", f"127.0.0.1:{port}"]) == 1
    assert f"kafka-http bench: Kafka at 127.0.0.1:{port} does not answer: " in capsys.readouterr().err


def test_the_server_is_given_the_same_settings(tmp_path: Path) -> None:
    given = {"workers": "3", "kafka": {"client_id": 'a "b"', "retry_backoff_ms": 5}, "access_log": True}
    config = load_config(given | {"trusted_proxies": "10.0.0.0/8,::1", "serializers": {"Avro": {"url": "x"}}}, {})
    file = tmp_path / "settings.toml"
    file.write_text(as_toml(config))

    assert load_config({"config": str(file)}, {}) == config

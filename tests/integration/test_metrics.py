"""The metrics of a real server: compared with its load, and read by the programs of Prometheus."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from kafka_http.demo.local_resources import free_ports
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory
from tests.support.manual import MANUAL
from tests.support.metric_samples import program, total
from tests.support.polling import wait_for
from tests.support.publish_load import PublishLoad
from tests.support.server_process import Service

CONNECTIONS = 16


def publishes(text: str) -> float:
    """The requests that published."""
    return sum(total(text, "kafka_http_requests_total", method=each) for each in ("PUT", "POST"))


def check_load(service: Service, load: PublishLoad) -> None:
    """Check that the counters are those of the load, apart from requests without an answer."""
    text = service.get("/metrics").text
    answered = sum(each.status is not None for each in load.published)
    unanswered = len(load.published) - answered
    assert 0 < answered <= publishes(text) <= answered + unanswered
    acknowledged = sum(each.status == 200 for each in load.published)
    written = total(text, "kafka_http_produced_records_total", topic=load.topic)
    assert acknowledged <= written <= acknowledged + unanswered


def test_counters_equal_the_load_over_kills_and_restarts_of_workers(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """A kill may leave publishes counted that were not answered: up to those in flight."""
    service = start_service(kafka.bootstrap_servers)
    load = PublishLoad(service, topic(partitions=3), connections=CONNECTIONS)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        with load.running():
            wait_for(lambda: load.successes(time.monotonic() - 0.5) > CONNECTIONS)
            workers = service.workers
            os.kill(min(workers), number)
            wait_for(lambda: len(service.workers - workers) == 1 and len(service.workers) == 2)  # noqa: B023
            load.wait_until_well(time.monotonic(), 5, CONNECTIONS)
        check_load(service, load)

    files = list((service.data_dir / "metrics").glob("*.db"))
    assert len(files) <= 4  # those of two workers and the daemon, and the archive
    page = service.get(f"/messages/{load.topic}/-/earliest?limit=100000&max_bytes=60000000")
    text = service.get("/metrics").text
    assert total(text, "kafka_http_consumed_records_total", topic=load.topic) == len(page.json()["records"])
    subprocess.run([program("promtool"), "check", "metrics"], input=text, text=True, check=True)

    service.stop()
    service.end_daemon()
    service.start()
    assert publishes(service.get("/metrics").text) == 0


def test_metrics_of_daemon_are_included(
    kafka: EmbeddedKafka, topic: TopicFactory, start_service: ServiceFactory
) -> None:
    """The daemon publishes what was accepted for later. Its counters stay after its end."""
    service = start_service(kafka.bootstrap_servers)
    name = topic()
    for _ in range(3):
        assert service.put(f"/messages/{name}", b"1", headers={"Prefer": "respond-async"}).status_code == 202

    def text() -> str:
        return service.get("/metrics").text

    wait_for(lambda: total(text(), "kafka_http_tasks_total", status="delivered") == 3)
    assert total(text(), "kafka_http_produced_records_total", topic=name) == 3
    wait_for(lambda: total(text(), "kafka_http_processes", process="daemon") == 1)
    daemon = service.daemon
    os.kill(daemon, signal.SIGKILL)
    wait_for(lambda: daemon not in service.daemons)
    assert total(text(), "kafka_http_produced_records_total", topic=name) == 3
    assert total(text(), "kafka_http_processes", process="daemon", pid=str(daemon)) == 0


def test_metrics_on_an_address_of_their_own_need_no_credentials(
    kafka: EmbeddedKafka, start_service: ServiceFactory
) -> None:
    (port,) = free_ports(1)
    service = start_service(kafka.bootstrap_servers, metrics_bind=f"127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}/metrics"

    assert service.get("/metrics").status_code == 404
    assert total(requests.get(url, timeout=10).text, "kafka_http_requests_total", route="/metrics", status="404") == 1
    assert f"Metrics: {url}" in service.log
    workers = service.workers
    os.kill(min(workers), signal.SIGKILL)
    wait_for(lambda: len(service.workers - workers) == 1)
    for _ in range(10):
        assert requests.get(url, timeout=10).status_code == 200


@contextmanager
def prometheus(directory: Path, service: Service) -> Iterator[str]:
    """The URL of a Prometheus that scrapes this server and has the rules of the manual."""
    (port,) = free_ports(1)
    (directory / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n"
        f"rule_files: ['{MANUAL / 'files' / 'alerts.yaml'}']\n"
        f"scrape_configs: [{{job_name: kafka_http, static_configs: [{{targets: ['127.0.0.1:{service.port}']}}]}}]\n"
    )
    command = [
        *(program("prometheus"), f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
        *(f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"),
    ]
    process = subprocess.Popen(command, cwd=directory)
    try:
        yield f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.terminate()
        process.wait()


def ask(url: str, **parameters: str) -> Any:
    """The data of an answer of Prometheus; None while it starts."""
    try:
        answer = requests.get(url, params=parameters, timeout=10)
    except requests.ConnectionError:
        return None
    assert answer.status_code in {200, 503}, answer.text
    return answer.json()["data"] if answer.status_code == 200 else None


@pytest.mark.slow
def test_prometheus_scrapes_and_evaluates_rules_and_dashboard(
    service: Service, topic: TopicFactory, tmp_path: Path
) -> None:
    name = topic()
    for number in range(3):
        assert service.put(f"/messages/{name}", str(number)).status_code == 200
    with prometheus(tmp_path, service) as url:
        metric = {"query": f'kafka_http_produced_records_total{{topic="{name}"}}'}
        result = wait_for(lambda: (ask(f"{url}/query", **metric) or {}).get("result"), 30)
        assert [each["value"][1] for each in result] == ["3"]

        def rules() -> list[Any]:
            return [each for group in ask(f"{url}/rules")["groups"] for each in group["rules"]]

        wait_for(lambda: all(each["health"] != "unknown" for each in rules()))
        assert [each for each in rules() if each["health"] != "ok"] == []
        dashboard = json.loads((MANUAL / "files" / "dashboard.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$job", "kafka_http").replace("$instance", ".*")
                assert ask(f"{url}/query", query=re.sub(r"\$__rate_interval", "1m", expression)) is not None

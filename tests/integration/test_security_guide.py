"""The manual's way from nothing to a server for strangers, alone and behind nginx, with its commands and settings."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from kafka_http.demo.embedded_kafka import EmbeddedKafka, create_topics
from kafka_http.demo.local_resources import free_ports
from tests.support.manual import page, section, shell_commands
from tests.support.nginx import nginx_before
from tests.support.planted_secrets import plant, search
from tests.support.polling import scaled, wait_for
from tests.support.secured_kafka import Certificates
from tests.support.server_process import PREFIX, end_daemons

pytestmark = pytest.mark.slow
GUIDE = section(page("security"), "## Set up a server for strangers")


class Guide:
    """Runs the commands of the guide in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pid = 0
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {"DATA_DIR": str(directory / "data"), "WORKERS": "1", "ACCESS_LOG": "true"}
        self.environment |= {f"{PREFIX}{name}": value for name, value in settings.items()}

    def commands(self, start: str) -> list[str]:
        found = [each for each in shell_commands(GUIDE) if each.startswith(start)]
        assert found
        return found

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def make_keys(self) -> None:
        """Run the commands that make keys, and set $SHOP, $BILLING and $OPS."""
        for command in self.commands("kafka-http key create"):
            done = self.run(command)
            assert done.returncode == 0, done.stderr
            found = re.search("kh_[!-~]+", done.stderr)
            assert found is not None
            self.environment[command.split()[3].upper()] = plant(found[0])

    def write_settings(self, bootstrap_servers: str) -> None:
        found = re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
        assert found is not None
        settings = found[1].replace("/etc/kafka_http/", f"{self.directory}/")
        settings = settings.replace('["kafka1:9092", "kafka2:9092"]', f'["{bootstrap_servers}"]')
        (self.directory / "settings.toml").write_text(settings)

    @contextmanager
    def server(self, command: str, port: int) -> Iterator[None]:
        """Run a `serve` command on a port of the loopback address."""
        command = re.sub(r"--bind \S+", f"--bind 127.0.0.1:{port}", command)
        log = self.directory / "serve.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = process.pid
        try:
            yield
        finally:
            process.terminate()
            process.wait(scaled(35))
            end_daemons(self.directory / "data")
            text = log.read_text()
            print(text)
            search("log of the server", text)
        assert "Traceback" not in text

    def curl(self, command: str) -> tuple[int, Any]:
        """Run a curl command. Return the status and the body."""
        done = self.run(command.replace("curl ", "curl -sS -w '\\n%{http_code}' "))
        body, _, status = done.stdout.rpartition("\n")
        search("answer", body)
        return int(status or 0), json.loads(body) if body.strip() else done.stderr


@pytest.fixture(params=["alone", "behind nginx"])
def guide(request: pytest.FixtureRequest, kafka: EmbeddedKafka, tmp_path: Path, hang_up: None) -> Iterator[Guide]:
    guide = Guide(tmp_path)
    guide.make_keys()
    guide.write_settings(kafka.bootstrap_servers)
    create_topics(kafka.bootstrap_servers, {"orders": 1, "payments": 1})
    assert guide.run("kafka-http config --config settings.toml").returncode == 0
    explained = guide.run("kafka-http access shop --config settings.toml")
    assert (explained.returncode, 'access."shop"' in explained.stdout) == (0, True), explained
    (port,) = free_ports(1)
    alone, behind = guide.commands("kafka-http serve")
    with ExitStack() as stack:
        if request.param == "alone":
            certificates = Certificates(tmp_path)
            guide.environment["CURL_CA_BUNDLE"] = str(certificates.authority)
            command = alone.replace("--tls-cert server.pem --tls-key server.key", f"--tls-cert {certificates.broker}")
            stack.enter_context(guide.server(command, port))
            url = f"https://127.0.0.1:{port}"
        else:
            stack.enter_context(guide.server(behind, port))
            url = stack.enter_context(nginx_before([SimpleNamespace(port=port)], tmp_path))  # type: ignore[list-item]
        guide.environment["SERVER"] = url
        wait_for(lambda: guide.curl("curl $SERVER/ready")[0] == 200, 30)
        yield guide


def test_guide_leads_to_a_server_that_refuses_what_it_should(guide: Guide) -> None:
    publish, read, acknowledge, access = guide.commands("curl ")
    assert guide.curl(publish)[0] == 200
    status, found = guide.curl(read)
    assert (status, found["records"][-1]["value"]) == (200, {"item": "book"})
    assert guide.curl(acknowledge)[0] == 204
    assert guide.curl(access)[1]["access"]["principal"] == "shop"

    without = re.sub(r' -H "[^"]*\$[^"]*"', "", publish)
    assert guide.curl(without)[0] == 401
    assert guide.curl(publish.replace("$SHOP", "kh_wrong"))[0] == 401
    assert guide.curl(read.replace("$BILLING", "$SHOP"))[0] == 403
    assert guide.curl(acknowledge.replace("/billing/", "/audit/"))[0] == 403
    assert guide.curl(publish.replace("orders", "payments"))[0] == 404
    assert guide.curl(publish.replace("$SHOP", "$OPS").replace("orders", "payments"))[0] == 200
    url = guide.environment["SERVER"]
    verify = guide.environment.get("CURL_CA_BUNDLE", True)
    answer = requests.get(f"{url}/access", headers={"X-Api-Key": guide.environment["SHOP"]}, verify=verify, timeout=10)
    assert "RateLimit-Limit" in answer.headers

    keys = guide.directory / "keys.toml"
    keys.write_text(re.sub(r"\[shop\]\n.*\n", "", keys.read_text()))
    os.kill(guide.pid, signal.SIGHUP)
    wait_for(lambda: guide.curl(publish)[0] == 401)
    assert guide.curl(read)[0] == 200

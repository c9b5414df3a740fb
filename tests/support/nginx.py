"""A real nginx with the manual's site file."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from kafka_http.demo.local_resources import free_ports
from tests.support.manual import page
from tests.support.polling import wait_for
from tests.support.server_process import Service


@contextmanager
def nginx_before(services: Sequence[Service], directory: Path, without: str = "") -> Iterator[str]:
    """The URL of an nginx that asks these services in turn. Its files are in `directory`. `without`: lines that match
    this are left out of the site.
    """
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:
        if "CI" in os.environ:
            pytest.fail("nginx is missing")
        pytest.skip("nginx is missing")
    (port,) = free_ports(1)
    file = directory / "nginx.conf"
    site = configuration(directory, port, services)
    file.write_text(re.sub(without, "", site) if without else site)
    process = subprocess.Popen([nginx, "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log")])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: process.poll() is not None or answers(url))
        assert process.poll() is None
        yield url
    finally:
        process.terminate()
        process.wait(10)
        print((directory / "error.log").read_text())


def configuration(directory: Path, port: int, services: Sequence[Service]) -> str:
    found = re.search(r"```nginx\n(.*?)```", page("deployment"), re.DOTALL)
    assert found is not None
    line = "    server 127.0.0.1:8082;\n"
    assert line in found[1]
    site = (
        found[1]
        .replace(line, "".join(line.replace("8082", str(each.port)) for each in services))
        .replace("listen 8080", f"listen 127.0.0.1:{port}")
    )
    temporary = "".join(
        f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    logs = f"error_log {directory}/error.log; pid {directory}/pid;"
    return f"{logs} daemon off; events {{}} http {{ access_log off; {temporary} {site} }}"


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.ConnectionError:
        return False

"""A real nginx with the manual's site file."""

import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from kafka_http.demo.local_resources import free_ports
from tests.support.manual import page
from tests.support.polling import wait_for
from tests.support.programs import program
from tests.support.server_process import Service


class Nginx:
    """A running nginx in front of services. Its files are in a directory of its own."""

    def __init__(self, process: subprocess.Popen[bytes], file: Path, url: str) -> None:
        self.url = url
        self._process = process
        self._file = file

    def mark(self, service: Service, *, is_down: bool) -> None:
        """Take a service out, or back in, and wait until only workers with the new configuration accept requests."""
        line = rf"(server 127\.0\.0\.1:{service.port})( down)?;"
        self._file.write_text(re.sub(line, r"\1 down;" if is_down else r"\1;", self._file.read_text()))
        before = self._workers()
        self._process.send_signal(signal.SIGHUP)
        wait_for(lambda: not before & self._workers(), 20)

    def _workers(self) -> set[str]:
        listed = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True, check=False)
        return set(listed.stdout.split())


@contextmanager
def nginx_before(services: Sequence[Service], directory: Path, without: str = "") -> Iterator[str]:
    """The URL of an nginx that asks these services in turn. See `running_nginx`."""
    with running_nginx(services, directory, without) as nginx:
        yield nginx.url


@contextmanager
def running_nginx(services: Sequence[Service], directory: Path, without: str = "") -> Iterator[Nginx]:
    """Run an nginx that asks these services in turn. Its files are in `directory`. `without`: lines that match this are
    left out of the site.
    """
    nginx = program("nginx")
    (port,) = free_ports(1)
    file = directory / "nginx.conf"
    site = configuration(directory, port, services)
    file.write_text(re.sub(without, "", site) if without else site)
    process = subprocess.Popen([nginx, "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log")])
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: process.poll() is not None or answers(url))
        assert process.poll() is None
        yield Nginx(process, file, url)
    finally:
        process.terminate()
        process.wait(10)
        print((directory / "error.log").read_text())


def configuration(directory: Path, port: int, services: Sequence[Service]) -> str:
    site = documented_site([f"127.0.0.1:{each.port}" for each in services])
    site = site.replace("listen 8080", f"listen 127.0.0.1:{port}")
    temporary = "".join(
        f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    logs = f"error_log {directory}/error.log; pid {directory}/pid;"
    return f"{logs} daemon off; events {{}} http {{ access_log off; {temporary} {site} }}"


def documented_site(servers: Sequence[str]) -> str:
    """The manual's site with these servers, each as `host:port`."""
    found = re.search(r"```nginx\n(.*?)```", page("deployment"), re.DOTALL)
    assert found is not None
    line = "    server 127.0.0.1:8082;\n"
    assert line in found[1]
    return found[1].replace(line, "".join(line.replace("127.0.0.1:8082", each) for each in servers))


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False

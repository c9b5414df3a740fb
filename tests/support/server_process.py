"""A real `kafka-http serve` in its own processes, and calls to it."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from kafka_http.demo.local_resources import free_ports
from tests.support.certificates import Authority, Issued, settings_of
from tests.support.planted_secrets import plant_settings, search
from tests.support.polling import scaled, wait_for

PREFIX = "KAFKA_HTTP_"
ROOT = Path(__file__).parents[2]


class Server:
    """A server at a URL, and the requests to it."""

    verify: str | None = None
    """The file with the certificate of the authority that an https server is of."""
    certificate: tuple[str, str] | None = None
    """The files of the certificate of requests, and of its key."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.headers: Mapping[str, str] = {}
        """Headers of all requests, such as the credentials."""

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        options["headers"] = {**self.headers, **options.get("headers", {})}
        timeout, verify = options.pop("timeout", 30), options.pop("verify", self.verify)
        certificate = options.pop("cert", self.certificate)
        return requests.request(method, self.url + path, timeout=timeout, verify=verify, cert=certificate, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def put(self, path: str, data: Any = b"", **options: Any) -> requests.Response:
        return self.request("PUT", path, data=data, **options)

    def post(self, path: str, data: Any = None, **options: Any) -> requests.Response:
        return self.request("POST", path, data=data, **options)

    def delete(self, path: str, **options: Any) -> requests.Response:
        return self.request("DELETE", path, **options)


class Service(Server):
    """`serve` on a free port with two workers and `settings`, those of `Config`. Its files are in `directory`.

    With an `authority` it is an https server with a certificate of that one. Requests have the certificate `client`.
    `constants` has other values of constants, by their full names, so that a test waits for less; not in the daemon.
    `daemon_constants` has those of its daemon.
    """

    working_directory = ROOT
    passed_descriptors: Sequence[int] = ()
    """Open files of this process that the server's process inherits."""

    def __init__(
        self,
        directory: Path,
        bootstrap_servers: str,
        authority: Authority | None = None,
        client: Issued | None = None,
        *,
        constants: Mapping[str, object] | None = None,
        daemon_constants: Mapping[str, object] | None = None,
        **settings: Any,
    ) -> None:
        self._constants = constants or {}
        self.port = free_ports(1)[0]
        super().__init__(f"{'http' if authority is None else 'https'}://127.0.0.1:{self.port}")
        self._authority = authority
        if client is not None:
            self.certificate = (str(client.certificate), str(client.key))
        if authority is not None:
            self.verify = str(authority.file)
            settings = {**settings_of(authority.server()), **settings}
        self.bootstrap_servers = bootstrap_servers
        self._worker_count = settings.get("workers", 2)
        self.data_dir = Path(settings.get("data_dir", directory / "data"))
        self._log_file = directory / "serve.log"
        self._access_log_file = directory / "access.log"
        given = {
            "bootstrap_servers": bootstrap_servers,
            "bind": f"127.0.0.1:{self.port}",
            "workers": self._worker_count,
            "access_log": True,
            "data_dir": self.data_dir,
            "allowed_hosts": "h,x",  # the Host header of requests that tests write by hand
        } | settings
        plant_settings(given)
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self._environment |= {PREFIX + name.upper(): _text(value) for name, value in given.items()}
        if daemon_constants:
            self._environment["PYTHONPATH"] = _site_of_daemon(directory / "site", daemon_constants)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        return [*program_with(self._constants), "serve"]

    def start(self) -> None:
        """Start the server and wait until it answers and all workers run."""
        with self._log_file.open("ab") as log, self._access_log_file.open("ab") as access_log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.working_directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=access_log,
                stderr=log,
                start_new_session=True,
                pass_fds=self.passed_descriptors,
            )
        wait_for(lambda: self._answers() and len(self.workers) == self._worker_count, 20)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        with suppress(requests.ConnectionError):
            return self.get("/health").status_code == 200
        return False

    @property
    def log(self) -> str:
        """The log of the server, followed by that of its daemon."""
        files = [self._log_file, self.data_dir / "daemon.log"]
        return "".join(each.read_text(errors="replace") for each in files if each.exists())

    @property
    def access_log(self) -> str:
        return self._access_log_file.read_text(errors="replace")

    @property
    def workers(self) -> set[int]:
        """The process ids of the running workers."""
        assert self.process is not None
        listed = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return {int(pid) for pid in listed.stdout.split()}

    @property
    def daemons(self) -> list[int]:
        """The process ids of the daemons of its data directory. There should be at most one."""
        return daemons_of(self.data_dir)

    @property
    def daemon(self) -> int:
        """The process id of its daemon."""
        (daemon,) = self.daemons
        return daemon

    def end_daemon(self) -> None:
        """End its daemon. The workers must have ended."""
        end_daemons(self.data_dir)

    def is_gone(self) -> bool:
        """Return whether all its processes have ended."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def terminate(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def hang_up(self) -> None:
        """Let it read its settings and their files again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def begin_stop(self) -> None:
        """Send SIGTERM and wait until the stop has begun: the server then closes an idle connection."""
        with self.connect() as idle:
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n")
            assert read_answers(idle, 1)[0][0] == 200
            self.terminate()
            assert idle.recv(1) == b""

    def wait_for_end(self, seconds: float = 35) -> None:
        """Wait for up to `seconds` (`scaled`) until all its processes have ended, and check the exit status."""
        assert self.process is not None
        assert self.process.wait(scaled(seconds)) == 0, self.log
        wait_for(self.is_gone, 2)

    def kill(self) -> None:
        """Kill all its processes and the daemon, as a power failure would."""
        assert self.process is not None
        daemons = self.daemons
        os.killpg(self.process.pid, signal.SIGKILL)
        for daemon in daemons:
            os.kill(daemon, signal.SIGKILL)
        self.process.wait()
        wait_for(self.is_gone, 5)

    def stop(self) -> None:
        """Stop it with SIGTERM. No effect if it does not run."""
        if self.process is None:
            return
        try:
            if self.process.poll() is None:
                self.terminate()
                self.wait_for_end()
        finally:
            if not self.is_gone():
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            self.end_daemon()
            search("log of the server", self.log)
            search("access log", self.access_log)

    def follow(self, path: str, pages: int = 1000) -> Iterator[dict[str, Any]]:
        """Yield the page at a path and the pages that its links lead to, without the empty last one."""
        for _ in range(pages):
            answer = self.get(path)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            if not page["records"]:
                return
            yield page
            link = urlsplit(answer.links["next"]["url"])
            path = f"{link.path}?{link.query}"
        raise AssertionError(f"more than {pages} pages")

    def records(self, topic: str) -> list[dict[str, Any]]:
        """Return all records of a topic."""
        return [record for page in self.follow(f"/messages/{topic}/reader/earliest") for record in page["records"]]

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            if self._authority is None:
                yield client
                return
            with self._authority.client_context().wrap_socket(client, server_hostname="localhost") as secure:
                yield secure

    def workers_by_request(self, wanted: set[str]) -> Mapping[str, int]:
        """Return the process id of the worker that answered each request, by request id."""
        served: dict[str, int] = {}

        def all_there() -> bool:
            for line in self.access_log.splitlines():
                if found := re.match(r"\S+ INFO (\d+) (\S+) gunicorn.access: ", line):
                    served[found[2]] = int(found[1])
            return wanted <= served.keys()

        wait_for(all_there)
        return served

    def session_of_each_worker(self) -> dict[int, requests.Session]:
        """Return a session with an open connection to each worker. The caller closes them."""
        found: dict[int, requests.Session] = {}
        for _ in range(100):
            session = requests.Session()
            answer = session.get(f"{self.url}/health", timeout=10)
            worker = self.workers_by_request({answer.headers["X-Request-Id"]})[answer.headers["X-Request-Id"]]
            if worker in found:
                session.close()
            else:
                found[worker] = session
            if len(found) == len(self.workers):
                return found
        raise AssertionError("one worker took all connections")


def program_with(constants: Mapping[str, object]) -> list[str]:
    """Return the command `kafka-http` with other values of constants, by names such as `kafka_http.backoff.SECONDS`."""
    if not constants:
        return [sys.executable, "-m", "kafka_http"]
    lines = ["import sys, importlib", "from kafka_http.cli.main import main", *_assignments(constants)]
    return [sys.executable, "-c", "\n".join([*lines, "sys.exit(main())"])]


def _assignments(constants: Mapping[str, object]) -> Iterator[str]:
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        yield f"module = importlib.import_module({module!r})"
        yield f"assert hasattr(module, {constant!r}); module.{constant} = {value!r}"


def _site_of_daemon(directory: Path, constants: Mapping[str, object]) -> str:
    """Return the value of PYTHONPATH with which a daemon has other values of constants.

    A worker starts the daemon, by its module's name. Python imports `sitecustomize` in each process before that.
    """
    directory.mkdir()
    lines = "".join(f"    {line}\n" for line in _assignments(constants))
    module = f"import sys, importlib\nif 'kafka_http.node.daemon' in sys.orig_argv:\n{lines}"
    (directory / "sitecustomize.py").write_text(module)
    return os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])


def daemons_of(data_dir: Path) -> list[int]:
    """Return the process ids of the daemons of a data directory."""
    running = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = each.read_text().split("\0")
            if "kafka_http.node.daemon" in command and str(data_dir) in command:
                running.append(int(each.parent.name))
    return running


def end_daemons(data_dir: Path) -> None:
    """End the daemons of a data directory. Their workers must have ended. Kill those that do not end, and fail."""
    for daemon in daemons_of(data_dir):
        with suppress(ProcessLookupError):
            os.kill(daemon, signal.SIGTERM)
    try:
        wait_for(lambda: not daemons_of(data_dir))
    except AssertionError:
        hung = daemons_of(data_dir)
        for daemon in hung:
            with suppress(ProcessLookupError):
                os.kill(daemon, signal.SIGKILL)
        raise AssertionError(f"the daemons {hung} of {data_dir} do not end") from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_answers(client: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Read exactly `count` responses with a Content-Length. Return (status, headers with lower-case names, body)."""
    answers = []
    with client.makefile("rb", buffering=0) as stream:
        for _ in range(count):
            status = int(stream.readline().split()[1])
            headers = {}
            while line := stream.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            body = b""
            while (left := int(headers.get("content-length", 0)) - len(body)) > 0:
                piece = stream.read(left)
                assert piece, "the answer breaks off"
                body += piece
            answers.append((status, headers, body))
    return answers

"""A small WSGI application for tests of the server: `python -m tests.support.wsgi_test_app` serves it.

/            responds "ok" and does not read a body
/sleep/S     responds after S seconds
/large       responds with 20 MB, and prints "closed /large" afterwards
/until-stop  responds when the server stops

It prints its events on stdout: "at /sleep/1", "reloaded", "stopping", "closed", and "returned" when `run` returns. A
reload fails while its settings file has a setting `data_dir = "faulty"`.
"""

import atexit
import os
import sys
import time
from collections.abc import Iterable, Iterator
from threading import Event
from typing import TYPE_CHECKING

from kafka_http.config import Config, ConfigError
from kafka_http.config.sources import load_config
from kafka_http.logs import request_id
from kafka_http.server import CannotServe, run
from kafka_http.server.app_interface import DefaultHooks

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def tell(what: str) -> None:
    """Print a line with one write, because the workers share the file."""
    os.write(sys.stdout.fileno(), f"{what}\n".encode())


class Large:
    """A response body of 20 MB."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"x" * 20_000_000

    def close(self) -> None:
        tell("closed /large")


class Tiny(DefaultHooks):
    """The application."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopping = Event()
        self.extensions = {"kafka_http": self}

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        request_id.set(environ.get("HTTP_X_REQUEST_ID", "-"))
        path = environ["PATH_INFO"]
        if path != "/":
            tell(f"at {path}")
        if path.startswith("/sleep/"):
            time.sleep(float(path.removeprefix("/sleep/")))
        if path == "/large":
            start_response("200 OK", [("Content-Length", "20000000"), ("Content-Type", "text/plain")])
            return Large()
        if path == "/until-stop":
            self._stopping.wait(30)
        start_response("200 OK", [("Content-Length", "2"), ("Content-Type", "text/plain")])
        return [b"ok"]

    def reload(self) -> None:
        if self._config.loaded_again().data_dir.name == "faulty":
            raise ConfigError("The settings are faulty.")
        tell(f"reloaded {os.getpid()}")

    def stop(self) -> None:
        self._stopping.set()
        tell("stopping")

    def close(self, timeout: float) -> None:
        tell("closed")


def make(config: Config) -> Tiny:
    return Tiny(config)


def main() -> None:
    atexit.register(tell, "at exit")
    try:
        run(load_config(), lambda: tell("ready"), make)
    except CannotServe as error:
        sys.exit(str(error))
    finally:
        tell("returned")


app = make(load_config())

if __name__ == "__main__":
    main()

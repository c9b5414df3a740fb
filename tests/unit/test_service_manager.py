"""What the server tells systemd, and the sockets that systemd passes."""

import os
import socket
import time
from pathlib import Path

import pytest

from kafka_http.config import Config
from kafka_http.server import CannotServe, run
from kafka_http.server.app_interface import DefaultHooks
from kafka_http.server.service_manager import ServiceManager, listener_address, passed_listeners
from tests.support.notify_socket import notify_socket


@pytest.mark.parametrize("is_abstract", [False, True])
def test_states_are_sent_to_the_notification_socket(is_abstract: bool) -> None:
    with notify_socket(is_abstract=is_abstract) as systemd:
        manager = ServiceManager(dict(systemd.environ))
        before = time.monotonic_ns() // 1000
        manager.ready("Two\nworkers.")
        manager.reloading()
        manager.ready("Again.")
        manager.stopping()
        assert systemd.states() == ["READY", "RELOADING", "READY", "STOPPING"]
        first, reloading, *_ = systemd.messages()
        assert first == {"READY": "1", "STATUS": "Two workers."}
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_variables_of_systemd_are_removed_from_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    assert ServiceManager(environ).is_present
    assert environ == {"HOME": "/"}


def test_missing_notification_socket_is_no_error(tmp_path: Path) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready("Ready.")
    ServiceManager({}).ready("Ready.")


@pytest.mark.parametrize(
    ("silences", "is_pinged"),
    [([], False), ([31.0], False), ([31.0, 99.0], False), ([29.0], True), ([99.0, 0.5], True)],
)
def test_watchdog_is_pinged_only_while_a_worker_shows_signs_of_life(silences: list[float], is_pinged: bool) -> None:
    with notify_socket() as systemd:
        manager = ServiceManager({**systemd.environ, "WATCHDOG_USEC": "60000000"})
        manager.ping(silences)
        assert systemd.pings == is_pinged
        manager.ping(silences)
        assert systemd.pings == is_pinged, "not twice within 15 s"


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}]
)
def test_watchdog_that_is_off_is_not_pinged(environ: dict[str, str]) -> None:
    with notify_socket() as systemd:
        manager = ServiceManager({**systemd.environ, **environ})
        manager.ping([0.0])
        assert systemd.pings == 0


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 0),
        ({"LISTEN_FDS": "1"}, 0),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, 0),
        ({"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid())}, 2),
        ({"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())}, 0),
    ],
)
def test_passed_listeners_are_those_for_this_process(environ: dict[str, str], count: int) -> None:
    assert passed_listeners(environ) == count


def test_address_of_a_listener_is_its_host_and_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert listener_address(listener.fileno()) == listener.getsockname()
        assert listener.getsockname()[1], "still open"


def test_listener_that_is_not_tcp_is_an_error() -> None:
    with socket.socket(socket.AF_UNIX) as listener, pytest.raises(OSError, match="not a TCP socket"):
        listener_address(listener.fileno())


class App:
    """An application that is never called."""

    def __init__(self) -> None:
        self.extensions = {"kafka_http": DefaultHooks()}


@pytest.mark.parametrize(("count", "bind"), [("2", "127.0.0.1:{port}"), ("1", "0.0.0.0:{port}"), ("1", "127.0.0.1:1")])
def test_passed_listener_that_differs_from_bind_is_an_error_at_start(
    count: str, bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Access and links depend on `bind`: a socket on all addresses must not pass for one on the loopback address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr("kafka_http.server.gunicorn_application.FIRST_LISTENER", listener.fileno())
        monkeypatch.setenv("LISTEN_FDS", count)
        monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
        port = listener.getsockname()[1]
        with pytest.raises(CannotServe, match=rf"systemd has passed {count} sockets, the first one on port {port} of"):
            run(Config(bind=bind.format(port=port)), load_app=lambda _: App())  # type: ignore[arg-type,return-value]

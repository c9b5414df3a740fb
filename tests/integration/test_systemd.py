"""The server as a service of systemd: what it reports, its watchdog, the socket that stays, and the end of the daemon.

A fake systemd starts the processes: it has a notification socket, and passes a listening socket.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import ServiceFactory, running
from tests.support.load_clients import Load, check_nothing_lost_or_doubled
from tests.support.notify_socket import NotifySocket, notify_socket
from tests.support.polling import wait_for
from tests.support.server_process import Service

NO_KAFKA = "127.0.0.1:1"
SOCKET_PASSER = (
    "import os, sys; fd = int(sys.argv[1]); os.dup2(fd, 3); os.set_inheritable(3, True); fd == 3 or os.close(fd); "
    "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[2], sys.argv[2:])"
)
"""A program that passes a descriptor as systemd does: as number 3 and with the id of the process."""


@pytest.fixture
def systemd() -> Iterator[NotifySocket]:
    with notify_socket() as opened:
        yield opened


class SupervisedService(Service):
    """A service that a fake systemd starts, with a watchdog of 4 s."""

    def __init__(self, directory: Path, bootstrap_servers: str, systemd: NotifySocket, **settings: Any) -> None:
        super().__init__(directory, bootstrap_servers, **settings)
        self._environment |= systemd.environ | {"WATCHDOG_USEC": "4000000"}


def test_states_of_the_service_are_reported(systemd: NotifySocket, tmp_path: Path, hang_up: None) -> None:
    with running(SupervisedService(tmp_path, NO_KAFKA, systemd)) as service:
        wait_for(lambda: systemd.states() == ["READY"])
        assert systemd.messages()[0]["STATUS"] == f"Listening on 127.0.0.1:{service.port}. Workers: 2."
        service.hang_up()
        wait_for(lambda: systemd.states() == ["READY", "RELOADING", "READY"])
        service.terminate()
        wait_for(lambda: systemd.states()[3:] == ["STOPPING"])
        service.wait_for_end()


def test_watchdog_is_pinged_until_all_workers_hang(systemd: NotifySocket, tmp_path: Path) -> None:
    with running(SupervisedService(tmp_path, NO_KAFKA, systemd)) as service, ExitStack() as frozen:
        first, second = service.workers
        for worker in (first, second):
            pings = systemd.pings
            wait_for(lambda pings=pings: systemd.pings > pings + 1)
            os.kill(worker, signal.SIGSTOP)
            frozen.callback(os.kill, worker, signal.SIGCONT)
        heard = [systemd.pings, time.monotonic()]

        def is_silent() -> bool:
            if systemd.pings != heard[0]:
                heard[:] = systemd.pings, time.monotonic()
            return time.monotonic() > heard[1] + 4  # systemd would now restart the service

        wait_for(is_silent, 20)
        assert systemd.states() == ["READY"]


class SocketActivatedService(SupervisedService):
    """A service whose listening socket stays open while it restarts."""

    def __init__(self, directory: Path, bootstrap_servers: str, systemd: NotifySocket, **settings: Any) -> None:
        super().__init__(directory, bootstrap_servers, systemd, **settings)
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
        self.passed_descriptors = [self.listener.fileno()]

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", SOCKET_PASSER, str(self.listener.fileno()), *super().command]


def test_restarts_under_load_fail_no_request_with_a_socket_of_systemd(
    kafka: EmbeddedKafka, topic: TopicFactory, systemd: NotifySocket, tmp_path: Path
) -> None:
    """Clients that connect in between wait in the socket, which stays open."""
    name = topic(3)
    with running(SocketActivatedService(tmp_path, kafka.bootstrap_servers, systemd)) as service, service.listener:
        load = Load(service, name)
        with load.running(publishers=4):
            for _ in range(2):
                started = time.monotonic()
                wait_for(lambda started=started: len(load.successes("publish", started)) > 20, 30)
                service.terminate()
                service.wait_for_end()
                service.start()
            started = time.monotonic()
            wait_for(lambda: len(load.successes("publish", started)) > 20, 30)
        assert [each for each in load.answers if each.status not in (200, 204)] == []
        check_nothing_lost_or_doubled(load, kafka.bootstrap_servers, name, 3)
    assert systemd.states().count("READY") == systemd.states().count("STOPPING") == 3


def test_stop_of_a_supervised_service_ends_its_daemon(
    kafka: EmbeddedKafka, topic: TopicFactory, systemd: NotifySocket, tmp_path: Path
) -> None:
    """Systemd kills what is left after the main process. The daemon would leave its instances to no other node."""
    with running(SupervisedService(tmp_path, kafka.bootstrap_servers, systemd)) as service:
        answer = service.post(f"/messages/{topic()}", json=[1], headers={"Idempotency-Key": "key"})
        assert answer.status_code == 200
        assert len(service.daemons) == 1
        service.terminate()
        service.wait_for_end()
        assert service.daemons == []
        assert "Daemon stopping" in service.log


def test_second_server_on_sigusr2_is_not_started(start_service: ServiceFactory) -> None:
    """Gunicorn would start one beside this one, with the same data directory."""
    service = start_service(NO_KAFKA)
    assert service.process is not None
    service.process.send_signal(signal.SIGUSR2)
    wait_for(lambda: "SIGUSR2 has no effect" in service.log)
    assert service.get("/health").status_code == 200

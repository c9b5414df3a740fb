"""granian with our settings: its HTTP is written in Rust, and each request that runs has a thread of Python's.

A worker is a process of its own, started by `multiprocessing`, with a socket of its own to listen on: the kernel shares
the connections out.
"""

import logging
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer

from kafka_http.config import Config
from kafka_http.server.granian.worker import HURRY, load
from kafka_http.server.lifecycle import stop_seconds

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_KEPT_ALIVE = 1000
"""Connections that a worker takes beside those whose requests run."""


def serve(
    config: Config,
    load_app: Callable[[Config], "WSGIApplication"],
    address: tuple[str, int],
    when_ready: Callable[[], None] | None,
) -> None:
    """Serve at an IP address and a port until SIGTERM, SIGINT or SIGHUP. `load_app` is called in each worker."""
    logging.getLogger("_granian").addFilter(_is_news)
    server = MPServer(**granian_settings(config, address))
    server.on_startup(partial(_take_signals, server, signal.getsignal(signal.SIGHUP)))
    if when_ready is not None:
        server.on_startup(Thread(target=_tell, args=(address, when_ready), daemon=True).start)
    server.serve(target_loader=partial(load, config, load_app), wrap_loader=False)


def granian_settings(config: Config, address: tuple[str, int]) -> dict[str, Any]:
    """granian's settings by their names."""
    head_seconds = config.keepalive or 30
    return {
        "target": "kafka-http",
        "address": address[0],
        "port": address[1],
        "interface": Interfaces.WSGI,
        "workers": config.workers,
        "blocking_threads": config.threads,
        "blocking_threads_idle_timeout": 600,
        "backpressure": config.threads + _KEPT_ALIVE,
        "backlog": 2048,
        "http": HTTPModes.http1,
        "websockets": False,
        "http1_settings": HTTP1Settings(keep_alive=config.keepalive > 0, header_read_timeout=head_seconds * 1000),
        "log_level": LogLevels(config.log_level),
        "log_dictconfig": {"incremental": True, "formatters": {}, "handlers": {}, "loggers": {}},  # ours stay
        "respawn_failed_workers": True,
        "workers_kill_timeout": stop_seconds(config),
    }


def _is_news(record: logging.LogRecord) -> bool:
    """Not that there are more threads than granian would choose, which is what was measured to be best."""
    return "Python threads" not in record.getMessage()


def _take_signals(server: "MPServer", hangup: Any) -> None:
    """The terminal's end stops as SIGTERM does, where granian would start new workers; a second Ctrl-C is quick."""
    interrupt: Callable[[], None] = server.signal_handler_interrupt
    main_process = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != main_process:  # a worker that has not begun
            os._exit(0)
        if not server.interrupt_signal:
            interrupt()
        elif number == signal.SIGINT:
            for worker in multiprocessing.active_children():
                _hurry(worker.pid)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    if hangup is signal.SIG_IGN:  # under nohup
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _hurry(process: int | None) -> None:
    if process is not None:
        with suppress(ProcessLookupError):
            os.kill(process, HURRY)


def _tell(address: tuple[str, int], when_ready: Callable[[], None]) -> None:
    """Call `when_ready` once connections are accepted."""
    accepted = False
    while not accepted:
        time.sleep(0.02)
        with suppress(OSError), socket.create_connection(address, 1):
            accepted = True
    when_ready()

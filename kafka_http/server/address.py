"""The address that a server listens on, before it does so."""

import logging
import socket

from kafka_http.config import Config, is_loopback
from kafka_http.server.errors import CannotServe

log = logging.getLogger(__name__)


def check_address(config: Config) -> tuple[str, int]:
    """Try the address: a server would say nothing that helps. The IP address and the port that `bind` stands for, a
    free one where it is 0. Raises `CannotServe`."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
            probe.listen()
            host, port = probe.getsockname()[:2]
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CannotServe(
            f"Cannot listen on {config.bind}: {reason}. Stop what listens there, or choose another with --bind."
        ) from None
    return host, port


def warn_of_strangers(config: Config) -> None:
    """Say so where others than this machine can reach the server."""
    if not is_loopback(config.host):
        log.warning(
            "Listening on %s, which others can reach, and nobody is asked who he is: whoever gets there may read and "
            "write all that this server may.", config.bind
        )  # fmt: skip

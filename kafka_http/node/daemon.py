"""The daemon's process: `python -m kafka_http.node.daemon --data-dir DIR`, started by a worker (see `launch`).

Reads its order from stdin, since settings may hold secrets: `{"settings": {…}, "if_needed": …}`. Goes into the
background, and says on stdout how its start went, in one line of JSON: `{"serves": true, "pid": …}`, `{"serves":
false}` where it has nothing to hold and is `if_needed`, or `{"failed": "…"}`. Its log is its stderr.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_PREDECESSOR_SECONDS = 15.0
_SWITCH_SECONDS = 0.0005
"""With Python's default, 5 ms, calls wait for whichever thread computes."""


def main() -> None:
    parser = argparse.ArgumentParser("python -m kafka_http.node.daemon", description="Started by kafka_http's workers.")
    parser.add_argument("--data-dir", type=Path, required=True)
    given = parser.parse_args()
    order = json.load(sys.stdin)
    if os.fork():  # so that it is no worker's child: nobody has to wait for its end
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    sys.setswitchinterval(_SWITCH_SECONDS)
    _run(given.data_dir, order)


def _run(data_dir: Path, order: dict[str, Any]) -> None:
    """Everything else is imported from here on: the worker that waits has its answer no earlier than that."""
    from kafka_http.errors import KafkaHttpError
    from kafka_http.node.data_directory import DataDirectory

    directory = DataDirectory(data_dir)
    deadline = time.monotonic() + _PREDECESSOR_SECONDS

    def in_vain() -> bool:
        return _is_served(directory) or time.monotonic() > deadline

    try:
        directory.make()
        with directory.lock("daemon", in_vain) as is_held:
            if is_held:
                _hold(directory, order)
            elif time.monotonic() > deadline:
                _answer(failed=f"The daemon before this one does not end, its log is in {data_dir}.")
            else:
                _answer(serves=True, pid=0)
    except KafkaHttpError as error:
        _answer(failed=error.message)


def _is_served(directory: Any) -> bool:
    try:
        directory.connect(1.0).close()
    except OSError:
        return False
    return True


def _hold(directory: Any, order: dict[str, Any]) -> None:
    """Be the node's daemon."""
    from kafka_http.logs import configure_logging
    from kafka_http.node.daemon_launcher import config_of, digest
    from kafka_http.node.store import StoredInstances, StoredKeys, StoredTasks, open_database

    config = config_of(order["settings"])
    configure_logging(config.log_level)
    database = open_database(config.data_dir, config.store_url, config.outbox_min_free)
    node_id = directory.node_id() if database.is_shared else ""
    is_needed = (
        StoredInstances(database, node_id).load()
        or StoredTasks(database, node_id).has_work()
        or StoredKeys(database, node_id).are_running()
    )
    if order["if_needed"] and not is_needed:
        _answer(serves=False)
        return

    from kafka_http.node.daemon_server import DaemonServer
    from kafka_http.node.daemon_services import DaemonServices

    node = DaemonServices(config, database, node_id)
    server = DaemonServer(directory.listen(), node.service, digest(order["settings"]))
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    _answer(serves=True, pid=os.getpid())
    node.open(lambda: server.has_workers, server.is_there)
    server.serve()
    directory.remove_socket()
    server.close()
    node.close()
    database.close()
    logging.getLogger("kafka_http.node.daemon").info("Ends: no worker is there any more")


def _answer(**said: Any) -> None:
    """The worker waits for the end of this stdout; if it has been killed meanwhile, there are others."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(said).encode() + b"\n")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    os.close(nowhere)


if __name__ == "__main__":
    main()

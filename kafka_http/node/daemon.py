"""The daemon's process: `python -m kafka_http.node.daemon --data-dir DIR`, started by a worker (`DaemonLauncher`).

It reads its parameters from stdin, because settings may contain secrets: `{"settings": {…}, "if_needed": …}`. It forks
into the background and reports on stdout, as one line of JSON: `{"serves": true, "pid": …}`, `{"failed": "…"}`, or
`{"serves": false}` if the store has no work for it and `if_needed` is true. It logs to stderr.
"""

import argparse
import gc
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
"""With Python's default of 5 ms, calls would wait too long for a thread that computes."""


def main() -> None:
    """Read the parameters, fork into the background, and run the daemon."""
    parser = argparse.ArgumentParser("python -m kafka_http.node.daemon", description="Started by kafka_http's workers.")
    parser.add_argument("--data-dir", type=Path, required=True)
    arguments = parser.parse_args()
    parameters = json.load(sys.stdin)
    if os.fork():  # so that no worker is its parent, which would have to wait for its end
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    sys.setswitchinterval(_SWITCH_SECONDS)
    _run(arguments.data_dir, parameters)


def _run(data_dir: Path, parameters: dict[str, Any]) -> None:
    """Take the daemon's lock and serve. The imports are here, because the worker waits until `main` has forked."""
    from kafka_http.errors import KafkaHttpError
    from kafka_http.node.data_directory import DataDirectory

    directory = DataDirectory(data_dir)
    deadline = time.monotonic() + _PREDECESSOR_SECONDS

    def stop_waiting() -> bool:
        return _is_served(directory) or time.monotonic() > deadline

    try:
        directory.create()
        with directory.lock("daemon", stop_waiting) as is_held:
            if is_held:
                _serve(directory, parameters)
            elif time.monotonic() > deadline:
                _report(failed=f"The previous daemon does not end; its log is in {data_dir}.")
            else:
                _report(serves=True, pid=0)
    except KafkaHttpError as error:
        _report(failed=error.message)


def _is_served(directory: Any) -> bool:
    try:
        directory.connect(1.0).close()
    except OSError:
        return False
    return True


def _serve(directory: Any, parameters: dict[str, Any]) -> None:
    from kafka_http.logs import configure_logging
    from kafka_http.node.daemon_launcher import config_from_json, settings_digest
    from kafka_http.node.store import open_database

    config = config_from_json(parameters["settings"])
    configure_logging(config.log_level, config.log_format)
    database = open_database(config.data_dir, config.store_url, config.outbox_min_free)
    node_id = directory.node_id() if database.is_shared else ""
    if not _is_needed(database, node_id) and parameters["if_needed"]:
        _report(serves=False)
        return

    from kafka_http.broker.open_file_limit import OpenFileLimit
    from kafka_http.errors import Unavailable
    from kafka_http.metrics_files import MetricFiles
    from kafka_http.node.daemon_server import DaemonServer
    from kafka_http.node.daemon_services import DaemonServices
    from kafka_http.node.loop_calls import MAX_CALLS

    with suppress(Unavailable):  # then some calls wait until others have ended
        OpenFileLimit(MAX_CALLS, "workers").check(config.workers)
    services = DaemonServices(config, database, node_id)
    server = DaemonServer(directory.listen(), services.lookup, settings_digest(parameters["settings"]))
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    _report(serves=True, pid=os.getpid())
    files = MetricFiles(config.data_dir, directory.create)
    files.open()
    services.open(lambda: server.has_workers, server.is_connected)
    gc.collect()
    gc.freeze()  # garbage collections then skip all objects that exist now
    server.serve()
    logging.getLogger("kafka_http.node.daemon").info("Daemon stopping: no workers are connected.")
    directory.remove_socket()
    server.close()
    services.close()
    files.close()
    files.end()
    database.close()


def _is_needed(database: Any, node_id: str) -> bool:
    """Return whether the store has instances, pending tasks or callbacks, or keys in progress."""
    from kafka_http.node.store import StoredInstances, StoredKeys, StoredTasks

    return (
        bool(StoredInstances(database, node_id).load())
        or StoredTasks(database, node_id).has_work()
        or StoredKeys(database, node_id).has_running()
    )


def _report(**report: Any) -> None:
    """Write the report and close stdout, at whose end the worker stops waiting. The worker may have been killed."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(report).encode() + b"\n")
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(null, stream)
    os.close(null)


if __name__ == "__main__":
    main()

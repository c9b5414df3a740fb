"""The guard process between a parent and a server that it started, so that the server never outlives the parent.

    python -I process_guard.py PARENT LOG NAME COMMAND…

The guard starts COMMAND with its output in the file LOG and prints its process id. NAME is what messages call the
server. The guard ends the command when the parent says so, when the pipe from the parent to its stdin is closed, or
when its parent is no longer the process PARENT: after a kill -9 of the parent, a forked child may keep the pipe open.

The guard has its own session, so that Ctrl-C in a terminal reaches the parent alone. It imports only the standard
library and always ends with status 0.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import TextIO

STOP = b"s"
"""The order to end the command."""

ANNOUNCE = b"a"
"""The order to print a message on stderr if the command ends by itself from now on."""

GRACE_SECONDS = 8.0
"""How long the command may take to end after SIGTERM."""

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1


def main(parent: int, log_file: str, name: str, command: list[str]) -> None:
    """Run the command until it ends or has to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(log_file, "ab") as log:  # noqa: PTH123  pathlib would double the start-up time
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_this_process(),  # noqa: PLW1509  this process has one thread
        )
    try:
        _print(str(child.pid), sys.stdout)
        if _wait_for_end(child, parent):
            _print(
                f"kafka-http demo: {name} ended unexpectedly (exit status {child.returncode}, log: {log_file}). The "
                "server keeps running and answers 503 to requests that need it. Restart the demo.",
                sys.stderr,
            )
    finally:
        _stop(child)


def _end_with_this_process() -> Callable[[], object] | None:
    """Ask Linux to end the command even after a kill -9 of this process."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for_end(child: subprocess.Popen[bytes], parent: int) -> bool:
    """Wait until the command ends or has to end. Return whether to announce its end."""
    announce = False
    while child.poll() is None:
        if select.select([0], [], [], _POLL_SECONDS)[0]:
            order = os.read(0, 1)
            if order != ANNOUNCE:
                return False
            announce = True
        elif os.getppid() != parent:
            return False
    return announce


def _print(text: str, stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # the parent may be gone
        print(text, file=stream, flush=True)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])

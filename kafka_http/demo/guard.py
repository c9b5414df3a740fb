"""The process between the demo and what it runs, Kafka for instance, so that none of them stays behind.

    python -I guard.py PARENT LOG NAME COMMAND…

starts COMMAND, NAME to the user, with its output in LOG, prints its process id, and ends it when the parent says so,
when the parent's end of this process's stdin is closed, or when the parent is no longer PARENT: a child forked from the
parent may hold that end open after a kill -9. It has a session of its own (Ctrl-C in a terminal reaches the parent
alone), uses nothing but the standard library, and ends with status 0 always.
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
ANNOUNCE = b"a"
"""From now on say so on stderr when the command ends by itself."""

GRACE = 8.0
"""Seconds that the command has to end by itself after SIGTERM."""

_LOOK_EVERY = 0.2
_PR_SET_PDEATHSIG = 1


def main(parent: int, log_file: str, name: str, command: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(log_file, "ab") as log:  # noqa: PTH123  pathlib would double this process's start-up
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_this_process(),  # noqa: PLW1509  this process has one thread
        )
    try:
        _say(str(child.pid), sys.stdout)
        if _watch(child, parent):
            _say(
                f"kafka-http demo: {name} has stopped (exit status {child.returncode}, its log is {log_file}); the "
                "server goes on and answers 503 to what needs it. Start the demo again to have it back.",
                sys.stderr,
            )
    finally:
        _stop(child)


def _die_with_this_process() -> Callable[[], object] | None:
    """What Linux needs to be told so that even a kill -9 of this process ends the command."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch(child: subprocess.Popen[bytes], parent: int) -> bool:
    """Wait for its end or the order to end it; True where its end is to be announced."""
    announce = False
    while child.poll() is None:
        if select.select([0], [], [], _LOOK_EVERY)[0]:
            order = os.read(0, 1)
            if order != ANNOUNCE:
                return False
            announce = True
        elif os.getppid() != parent:
            return False
    return announce


def _say(sentence: str, stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more
        print(sentence, file=stream, flush=True)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])

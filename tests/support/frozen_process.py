"""Freezes a process: it stops answering but does not end."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.support.polling import wait_for


class HasPid(Protocol):
    @property
    def pid(self) -> int | None: ...


class Process(NamedTuple):
    pid: int


@contextmanager
def frozen(process: HasPid) -> Iterator[None]:
    """Stop a process with SIGSTOP and continue it afterwards. Its connections stay open meanwhile."""
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: is_frozen(pid))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_frozen(pid: int) -> bool:
    """Return whether all threads of a process have stopped. On a busy machine the signal takes a while."""
    try:
        states = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread has just ended
        return False
    return all(each.rpartition(")")[2].split()[0] == "T" for each in states)

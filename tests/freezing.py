"""A process that stops answering without ending."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.attempts import wait_for


class HasPid(Protocol):
    @property
    def pid(self) -> int | None: ...


class Process(NamedTuple):
    pid: int


@contextmanager
def frozen(process: HasPid) -> Iterator[None]:
    """Its connections stay open, and nothing answers."""
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: is_frozen(pid))
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_frozen(pid: int) -> bool:
    """Whether none of its threads runs any more: the signal takes its time on a busy machine."""
    try:
        states = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # one has just ended
        return False
    return all(each.rpartition(")")[2].split()[0] == "T" for each in states)

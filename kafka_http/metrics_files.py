"""The files in which the processes of a node keep their metrics.

Each process has a file of its own in the directory, in the format of prometheus_client, mapped into its memory: the
numbers in it outlive a kill. A process holds the lock of its file while it lives. A process that starts adds the files
of dead processes to `archive.db`, so that counters never go down and files do not pile up. Names are unique, unlike
process ids, which containers use again. No process waits long for another one, which may be frozen.
"""

import fcntl
import logging
import os
import tempfile
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path
from shutil import rmtree
from struct import Struct
from uuid import uuid4

from prometheus_client.mmap_dict import MmapedDict

from kafka_http import metrics
from kafka_http.errors import KafkaHttpError

log = logging.getLogger(__name__)

_LOCK_SECONDS = 1.0
_POLL_SECONDS = 0.005
_FILE_BYTES = 1 << 20
"""Size of a process's file: more than twice what all labels need. The disk space is reserved, because a write to a
mapped file kills the process if the disk is full."""
_ENTRY_BYTES = 40
"""Size of an entry without its key, at most."""
_NUMBER_BYTES = 16
"""Size of the number and the time of an entry, its last fields."""
_SIZE = Struct("i")
_ARCHIVE = "archive.db"
_TOPICS = "topics"
_MERGED = "merged "
"""Begins the keys of an archive that name the files in it. They are still there if a merge was interrupted."""


class MetricFiles:
    """The directory of metrics of a node. Created before the fork; each process calls `open` and may call `read`."""

    def __init__(self, data_dir: Path, create: Callable[[], None]) -> None:
        """`create` creates the data directory. It raises an `OSError` or a `KafkaHttpError` if it must not be used."""
        self._directory = data_dir / "metrics"
        self._create = create
        self._is_temporary = False
        self._process = 0
        self._file: _ProcessFile | None = None

    def prepare(self) -> None:
        """Remove the files of an earlier server. Without a usable directory, take a temporary one for this server.

        Called before the fork, if at all.
        """
        try:
            self._create_all()
            self.remove_dead()
        except (OSError, KafkaHttpError) as error:
            self._directory, self._is_temporary = Path(tempfile.mkdtemp(prefix="kafka_http-metrics-")), True
            log.debug("Metrics are kept in a temporary directory: %s", error)

    def open(self) -> None:
        """Keep the metrics of this process in a file from now on. They stay in memory if that fails."""
        if self._process == os.getpid():
            return
        self._process = os.getpid()
        self._file = None
        try:
            self._create_all()
            self._file = _ProcessFile(self._directory)
            self._merge_dead()
        except (OSError, KafkaHttpError) as error:
            log.warning(
                "/metrics of other processes lacks the counts of this one: %s cannot be used: %s. Restart the server "
                "when it can.",
                *(self._directory, error),
            )
        metrics.use_sink(self._file)

    def read(self) -> Mapping[str, float]:
        """Return the numbers of all processes by key: counters of living and dead ones, gauges of living ones.

        Without a file, this process leaves its own out if others have files: what only some processes can show would
        go up and down with the process that answers. Without any files, its own are all.
        """
        if self._process != os.getpid():
            return metrics.own_numbers()
        try:
            return self._read_files() or metrics.own_numbers()
        except OSError as error:  # someone has removed the directory
            log.debug("The files of the metrics cannot be read: %s", error)
            return metrics.own_numbers()

    def _read_files(self) -> Mapping[str, float]:
        with suppress(BlockingIOError), self._lock(fcntl.LOCK_SH):
            return self._sums(self._files())
        return self._sums(self._files())  # one that merges hangs; it may count twice what it merges

    def remove_dead(self) -> None:
        """Remove all files, unless a process lives: then only those of dead processes, after adding them up."""
        with suppress(BlockingIOError), self._lock(fcntl.LOCK_EX):
            files = self._files()
            if any(_is_alive(each) for each in files):
                self._merge()
                return
            unfinished = [each for each in self._directory.glob("*.new") if not _is_alive(each)]
            for each in (*files, *unfinished, self._directory / _ARCHIVE, self._directory / _TOPICS):
                each.unlink(missing_ok=True)

    def close(self) -> None:
        """Write no more: the process ends. Its file stays for the others."""
        if self._file is not None:
            metrics.use_sink(None)
            self._file.close()
            self._file = None

    def end(self) -> None:
        """Remove what the processes of this server have left. Called when they have ended."""
        if self._is_temporary:
            rmtree(self._directory, ignore_errors=True)
        else:
            with suppress(OSError):
                self.remove_dead()

    def _create_all(self) -> None:
        if not self._is_temporary:
            self._create()
            self._directory.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        """Hold the lock of the directory. Raises `BlockingIOError` if another process holds it for too long."""
        with _locked(self._directory / "lock", kind, _LOCK_SECONDS):
            yield

    def _merge_dead(self) -> None:
        with suppress(OSError), self._lock(fcntl.LOCK_EX):  # if the disk is full, the next process merges
            self._merge()

    def _files(self) -> list[Path]:
        """Return the files of processes, living and dead."""
        return [each for each in self._directory.glob("*.db") if each.name != _ARCHIVE]

    def _merge(self) -> None:
        """Add the files of dead processes to the archive. The caller has the lock."""
        dead = [each for each in self._files() if not _is_alive(each)]
        if not dead:
            return
        sums = self._sums(dead)
        new = self._directory / f"{_ARCHIVE}.new"
        new.unlink(missing_ok=True)
        os.close(_reserve(new, _FILE_BYTES))
        archive = MmapedDict(str(new))
        for key in (*sums, *(_MERGED + each.name for each in dead)):
            archive.write_value(key, sums.get(key, 1.0), 0.0)
        archive.close()
        new.replace(self._directory / _ARCHIVE)
        for each in dead:
            each.unlink(missing_ok=True)

    def _sums(self, files: Collection[Path]) -> Mapping[str, float]:
        """Add up the archive and these files."""
        sums: dict[str, float] = defaultdict(float)
        merged = set()
        for key, number in _numbers(self._directory / _ARCHIVE):
            if key.startswith(_MERGED):
                merged.add(key.removeprefix(_MERGED))
            else:
                sums[key] += number
        for file in files:
            if file.name not in merged:
                is_alive = _is_alive(file)
                for key, number in _numbers(file):
                    if is_alive or not metrics.is_gauge(key):
                        sums[key] += number
        return sums


class _ProcessFile:
    """The numbers of this process: a `MetricSink`.

    prometheus_client writes the keys. The numbers are written at once to a mapping of the file: each request has some.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / f"{os.getpid()}-{uuid4().hex}.db"
        new = path.with_suffix(".new")
        self._held = _reserve(new, _FILE_BYTES)
        fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.rename(path)  # others see it with its lock only
        self._keys = MmapedDict(str(path))
        self._map = mmap(self._held, _FILE_BYTES)
        self._numbers = memoryview(self._map).cast("d")
        self._topics = directory / _TOPICS

    def place(self, key: str) -> tuple[metrics.Memory, int]:
        if self._used + len(key) + _ENTRY_BYTES > _FILE_BYTES:
            return array("d", (0.0,)), 0
        self._keys.write_value(key, 0.0, 0.0)
        return self._numbers, (self._used - _NUMBER_BYTES) // self._numbers.itemsize

    @property
    def _used(self) -> int:
        """The size of all entries. The file begins with it. An entry ends with its number and a time."""
        size: int = _SIZE.unpack_from(self._map)[0]
        return size

    def close(self) -> None:
        """Release the file: this process counts as dead."""
        self._numbers.release()
        self._map.close()
        self._keys.close()
        os.close(self._held)

    def claim_topic(self, topic: str) -> frozenset[str]:
        """Append the topic to a file. The first different ones in it have labels, which needs no lock."""
        try:
            topics = _first_topics(self._topics)
            if topic not in topics and len(topics) < metrics.MAX_TOPICS:
                with self._topics.open("ab", buffering=0) as file:
                    file.write(f"{topic}\n".encode())
                topics = _first_topics(self._topics)
        except OSError:  # the disk is full
            return frozenset()
        return topics


def _first_topics(file: Path) -> frozenset[str]:
    topics = file.read_text().split() if file.exists() else []
    return frozenset(list(dict.fromkeys(topics))[: metrics.MAX_TOPICS])


def _numbers(file: Path) -> Iterator[tuple[str, float]]:
    """Yield the keys and numbers of a file. One that is incomplete ends early."""
    try:
        for key, number, *_ in MmapedDict.read_all_values_from_file(str(file)):
            yield key, number
    except FileNotFoundError:
        pass
    except Exception as error:  # corrupt bytes raise anything
        log.warning("A file of metrics cannot be read: %s: %s", file, error)


def _is_alive(file: Path) -> bool:
    """Return whether the process of a file holds its lock."""
    try:
        with _locked(file, fcntl.LOCK_SH, 0):
            return False
    except BlockingIOError:
        return True


@contextmanager
def _locked(file: Path, kind: int, seconds: float) -> Iterator[None]:
    """Hold the lock of a file. Raises `BlockingIOError` if another process holds it for so many seconds."""
    until = time.monotonic() + seconds
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _reserve(file: Path, size: int) -> int:
    """Create a file of zeros, whose disk space is allocated. Return its descriptor."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:  # macOS
            os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        file.unlink()
        raise
    return descriptor

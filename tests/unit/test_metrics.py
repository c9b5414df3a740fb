"""What is counted in a process, and how the files of several processes are added up."""

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree

import pytest

from kafka_http import metrics
from kafka_http.metrics import MAX_TOPICS, OTHER, Counter, Gauge
from kafka_http.metrics_files import MetricFiles

COUNTER, GAUGE = metrics.TASKS, metrics.OUTBOX_TASKS


OpenFiles = Callable[[Path], MetricFiles]


@pytest.fixture(autouse=True)
def numbers_from_zero() -> Iterator[None]:
    metrics.use_sink(None)
    yield
    metrics.use_sink(None)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


def files_of(directory: Path) -> MetricFiles:
    return MetricFiles(directory, lambda: directory.mkdir(exist_ok=True))


@pytest.fixture
def open_files() -> Iterator[OpenFiles]:
    """Returns the files of a directory, one of which this process has."""
    opened: list[MetricFiles] = []

    def open_(directory: Path) -> MetricFiles:
        files = files_of(directory)
        opened.append(files)
        files.open()
        return files

    yield open_
    for each in opened:
        each.close()


def fail() -> None:
    raise PermissionError("no access")


def numbers(files: MetricFiles, metric: metrics.Metric) -> Mapping[tuple[str, ...], float]:
    return {each.values: each.number for each in metrics.samples(files.read()) if each.metric is metric}


def count_and_end(directory: Path, number: int, topics: int = 0) -> None:
    """Run in another process: count, and end without cleaning up, as after a kill."""
    files_of(directory).open()
    COUNTER.add(number, "accepted")
    GAUGE.set(number)
    metrics.REQUEST_SECONDS.observe(100.0, "/", "GET")
    for index in range(topics):
        metrics.count_produced(f"t{number}-{index}", 1, 10)
    os._exit(0)


def in_process(directory: Path, number: int, topics: int = 0) -> None:
    process = get_context("fork").Process(target=count_and_end, args=(directory, number, topics))
    process.start()
    process.join()


def test_counter_of_dead_process_stays_and_its_gauge_ends(directory: Path, open_files: OpenFiles) -> None:
    files = open_files(directory)
    COUNTER.add(1, "accepted")
    GAUGE.set(5)

    in_process(directory, 10)

    assert numbers(files, COUNTER) == {("accepted",): 11}
    assert numbers(files, GAUGE) == {(): 5}


def test_files_of_dead_processes_are_merged_when_a_process_starts(directory: Path, open_files: OpenFiles) -> None:
    for number in range(1, 5):
        in_process(directory, number)
    files = open_files(directory)

    assert numbers(files, COUNTER) == {("accepted",): 10}
    assert sorted(each.suffix for each in (directory / "metrics").glob("*.db")) == [".db", ".db"]


def test_merge_that_was_interrupted_counts_nothing_twice(directory: Path, open_files: OpenFiles) -> None:
    """A kill between the new archive and the removal of the files in it leaves both."""
    in_process(directory, 1)
    (file,) = (directory / "metrics").glob("*.db")
    content = file.read_bytes()
    files = open_files(directory)
    file.write_bytes(content)

    assert numbers(files, COUNTER) == {("accepted",): 1}
    in_process(directory, 2)
    in_process(directory, 4)
    assert numbers(files, COUNTER) == {("accepted",): 7}


def test_server_starts_at_zero_unless_a_process_lives(directory: Path, open_files: OpenFiles) -> None:
    in_process(directory, 1)
    files_of(directory).prepare()
    assert not list((directory / "metrics").glob("*.db"))

    living = open_files(directory)
    COUNTER.add(1, "accepted")
    in_process(directory, 1)
    files_of(directory).prepare()

    assert numbers(living, COUNTER) == {("accepted",): 2}


def test_corrupt_file_is_left_out(directory: Path, open_files: OpenFiles, caplog: pytest.LogCaptureFixture) -> None:
    files = open_files(directory)
    COUNTER.add(1, "accepted")
    (directory / "metrics" / "1-x.db").write_bytes(struct.pack("<4i", 80, 0, 1000, 0) + bytes(100))

    assert numbers(files, COUNTER) == {("accepted",): 1}
    assert "cannot be read" in caplog.text


def test_unusable_directory_leaves_the_metrics_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = MetricFiles(tmp_path, fail)
    files.open()
    COUNTER.add(1, "accepted")

    assert numbers(files, COUNTER) == {("accepted",): 1}
    assert "lacks the counts of this one" in caplog.text


def test_counters_do_not_go_down_in_a_process_without_space_for_its_file(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at the restart of a worker: a scrape that it answered had its own counts only."""

    def fail_to_allocate(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    in_process(directory, 10)
    monkeypatch.setattr(os, "posix_fallocate", fail_to_allocate)
    files = files_of(directory)
    files.open()
    COUNTER.add(1, "accepted")

    assert numbers(files, COUNTER) == {("accepted",): 10}


def test_removed_directory_leaves_the_metrics_of_the_process(directory: Path, open_files: OpenFiles) -> None:
    files = open_files(directory)
    COUNTER.add(1, "accepted")
    rmtree(directory)

    assert numbers(files, COUNTER) == {("accepted",): 1}


def test_unusable_directory_before_the_fork_takes_a_temporary_one(tmp_path: Path) -> None:
    files = MetricFiles(tmp_path, fail)
    files.prepare()
    files.open()
    COUNTER.add(1, "accepted")
    other = files._directory
    assert numbers(files, COUNTER) == {("accepted",): 1}

    files.close()
    files.end()
    assert not other.exists()


def test_topics_after_the_first_are_other_in_all_processes(directory: Path, open_files: OpenFiles) -> None:
    in_process(directory, 1, MAX_TOPICS - 1)
    files = open_files(directory)
    for topic in ("here", "t1-0", "late", "t1-1", "later"):
        metrics.count_produced(topic, 2, 3)

    found = numbers(files, metrics.PRODUCED_RECORDS)
    assert (found["here",], found["t1-0",], found["t1-1",]) == (2, 3, 3)
    assert found[OTHER,] == 4
    assert len(found) == MAX_TOPICS + 1


def test_method_that_no_client_should_use_is_other() -> None:
    metrics.count_request("none", "BREW", 405, 0.1)

    assert {each.values for each in metrics.samples(metrics.own_numbers())} == {
        ("none", "other", "405"),
        ("none", "other"),
    }


def test_histogram_has_the_bucket_of_each_time() -> None:
    for seconds in (0.001, 0.0011, 0.002, 61):
        metrics.REQUEST_SECONDS.observe(seconds, "/", "GET")

    parts = {each.part: each.number for each in metrics.samples(metrics.own_numbers())}
    assert parts == {"sum": pytest.approx(61.0041), "0": 1, "1": 2, str(len(metrics.BOUNDS)): 1}


def test_numbers_of_another_version_are_left_out() -> None:
    keys = {'["kafka_http_gone_total", ""]': 1.0, '["kafka_http_tasks_total", "", "a", "b"]': 1.0}

    assert list(metrics.samples(keys)) == []


def test_names_follow_the_conventions_of_prometheus() -> None:
    for each in metrics.all_metrics():
        assert each.name.startswith("kafka_http_")
        assert each.name.endswith("_total") == isinstance(each, Counter)
        assert each.help_text.endswith(".")
        assert each.name.endswith("_seconds") or isinstance(each, Counter | Gauge)


def test_process_that_hangs_with_the_lock_stops_no_other(directory: Path, open_files: OpenFiles) -> None:
    in_process(directory, 1)
    with (directory / "metrics" / "lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        files = open_files(directory)
        metrics.count_produced("t", 1, 1)

        assert numbers(files, COUNTER) == {("accepted",): 1}
        assert numbers(files, metrics.PRODUCED_RECORDS) == {("t",): 1}

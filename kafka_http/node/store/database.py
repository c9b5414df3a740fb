"""The database of the state store: opening a SQLite file or a PostgreSQL, and transactions one after the other."""

import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kafka_http.config import ConfigError
from kafka_http.errors import KafkaHttpError, Unavailable, how_to_install
from kafka_http.node.store.tables import upgrade

log = logging.getLogger(__name__)

FILE_NAME = "store.sqlite"
_CONNECT_SECONDS = 3
_BUSY_SECONDS = 2
_MIN_FREE = 64 << 20

Result = TypeVar("Result")
Change = Callable[[Connection], Result]


def open_database(data_dir: Path, url: str = "", min_free: int | None = None) -> "Database":
    """Open the store of a node, the PostgreSQL at `url` or a file in the existing `data_dir`, and upgrade its schema.

    `min_free` is the setting `outbox_min_free`, which only applies to a file. Raises `Unavailable`.
    """
    file = data_dir / FILE_NAME
    database = Database(_postgresql(parse_store_url(url))) if url else Database(_sqlite(file), file, min_free)
    try:
        database.write(upgrade)
    except BaseException:
        database.close()
        raise
    return database


def parse_store_url(url: str) -> URL:
    """Parse the setting store_url. Raises `ConfigError`, whose text omits the URL because of its password."""
    try:
        parsed = make_url(url)
    except (ValueError, SQLAlchemyError):
        parsed = None
    if parsed is None or "@" in (parsed.host or ""):
        raise ConfigError(
            "store_url must be a URL such as postgresql://user:password@host:5432/name. In user and password, the "
            "characters @ : / ? # [ ] % must be percent-encoded, such as %40 for @."
        )
    return parsed


def _sqlite(file: Path) -> Engine:
    try:
        # SQLite gives its -wal and -shm files the same mode.
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise Unavailable(f"The state store {file} cannot be opened: {error.strerror}.") from None
    engine = create_engine(
        URL.create("sqlite", database=str(file)),
        connect_args={"check_same_thread": False, "timeout": _BUSY_SECONDS},
        pool_reset_on_return=None,  # each transaction is ended here; another rollback would only take time
    )

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # otherwise the driver begins transactions itself, and too late
        # Some builds overwrite deleted content with zeros, which takes the same space on the disk again.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=FAST"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        level = "FULL" if _is_durable(connection) else "NORMAL"  # NORMAL writes the log and does not wait for the disk
        connection.exec_driver_sql(f"PRAGMA synchronous={level}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL) -> Engine:
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=1,
            connect_args={"connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": 1000 * _CONNECT_SECONDS},
        )
    except ImportError:
        raise Unavailable(f"The setting store_url needs the package psycopg. {how_to_install('postgresql')}") from None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not _is_durable(connection):
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    return engine


def _is_durable(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("is_durable", True))


class Database:
    """Runs transactions one after the other. Changes that arrive during a commit share the next one.

    The daemon opens it for its lifetime. Any thread may call; a call blocks until its commit.
    """

    def __init__(self, engine: Engine, file: Path | None = None, min_free: int | None = None) -> None:
        """`file` is the SQLite file, if any. `min_free` bytes of its disk stay free: by default 64 MiB, at most 5 %."""
        self._engine = engine
        self._lazy_engine = engine.execution_options(is_durable=False)
        self._file = file
        self._min_free = min_free
        self._queue: deque[_Transaction[Any]] = deque()
        self._commit_lock = threading.Lock()
        self._problem = ""

    @property
    def is_shared(self) -> bool:
        """Whether other nodes may use it, too."""
        return self._engine.dialect.name != "sqlite"

    def write(self, change: Change[Result], *, durable: bool = True) -> Result:
        """Run `change` in a transaction and return its result after the commit.

        If `durable` is false, the commit survives the end of this process, but a crash of the machine or of PostgreSQL
        may undo it, because nothing waits for the disk. The next durable commit makes it durable, too.

        A change may run twice, so it must be idempotent. If it raises a `KafkaHttpError`, there is no rollback, so it
        must not have written anything before. Raises `Unavailable` if the database fails.
        """
        transaction = _Transaction(change, durable)
        self._queue.append(transaction)
        with self._commit_lock:
            if not transaction.is_done:
                self._commit([self._queue.popleft() for _ in range(len(self._queue))])
        return transaction.result()

    def check_space(self, size: int = 0) -> None:
        """Raise `Unavailable` if `size` more bytes would leave less than `min_free` of the disk.

        The reserve is needed to record the results of what is stored already.
        """
        if self._file is None:
            return
        disk = os.statvfs(self._file.parent)
        min_free = self._min_free
        if min_free is None:
            min_free = min(_MIN_FREE, disk.f_blocks * disk.f_frsize // 20)
        needed = min_free + 2 * size  # once in the log, once in the file
        available = disk.f_bavail * disk.f_frsize
        wal = self._file.with_name(f"{self._file.name}-wal")
        if available - _size(wal) < needed and available + self.write(self._reusable_bytes) < needed:
            raise Unavailable(
                "The disk of the server's state store is almost full (setting outbox_min_free). Nothing was stored. "
                "Try again later."
            )

    def _reusable_bytes(self, connection: Connection) -> int:
        """The free bytes inside the SQLite file, less the bytes by which the next checkpoint extends it."""
        assert self._file is not None  # noqa: S101  only called for SQLite
        pages, free, size = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
            for name in ("page_count", "freelist_count", "page_size")
        )
        return free * size - max(0, pages * size - _size(self._file))

    def close(self) -> None:
        self._engine.dispose()

    def _commit(self, batch: "list[_Transaction[Any]]", *, is_retry: bool = False) -> None:
        has_begun = False
        engine = self._engine if any(each.is_durable for each in batch) else self._lazy_engine
        try:
            with engine.begin() as connection:
                has_begun = True
                for each in batch:
                    each.run(connection)
        except SQLAlchemyError as error:
            if not is_retry and _is_disk_full(error) and self._restart_wal():
                self._commit(batch, is_retry=True)
            elif has_begun and len(batch) > 1:  # one of the changes may be the cause
                for each in batch:
                    self._commit([each])
            elif not is_retry and isinstance(error, DBAPIError) and error.connection_invalidated:
                # PostgreSQL has closed the pooled connection; the pool opens another one.
                self._commit(batch, is_retry=True)
            else:
                self._log_change(str(getattr(error, "orig", error)).strip().partition("\n")[0])
                for each in batch:
                    each.failure = Unavailable("The server's state store does not answer; see the server's log.")
        else:
            self._log_change("")
        for each in batch:
            each.is_done = True

    def _restart_wal(self) -> bool:
        """Let SQLite reuse the space of its write-ahead log. Returns whether that was possible."""
        connection = self._engine.raw_connection()
        try:
            return not connection.cursor().execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]
        except sqlite3.Error:
            return False
        finally:
            connection.close()

    def _log_change(self, problem: str) -> None:
        """Log a problem when it first occurs and when it is over."""
        if problem and problem != self._problem:
            log.error("State store failed: %s", problem)
        elif self._problem and not problem:
            log.info("State store answers again.")
        self._problem = problem


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _is_disk_full(error: SQLAlchemyError) -> bool:
    return getattr(getattr(error, "orig", None), "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


class _Transaction(Generic[Result]):
    """A change whose thread waits for the commit."""

    def __init__(self, change: Change[Result], is_durable: bool) -> None:
        self.is_durable = is_durable
        self._change = change
        self._result: list[Result] = []
        self.failure: KafkaHttpError | None = None
        self.is_done = False

    def run(self, connection: Connection) -> None:
        try:
            self._result = [self._change(connection)]
        except KafkaHttpError as error:
            self.failure = error

    def result(self) -> Result:
        if self.failure is not None:
            raise self.failure
        return self._result[0]

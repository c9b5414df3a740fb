"""One database, SQLite's file in the data directory or a PostgreSQL: opening it, its one writer at a time."""

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
    """The store of a node: the PostgreSQL at `url`, or without one a file in `data_dir`, which must be there.

    Its schema is brought up to date. `min_free` is the setting `outbox_min_free`, which counts for a file alone. Raises
    `Unavailable`, whose sentence says what is wrong with it.
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
    """The parts of the setting store_url. Raises `ConfigError`, which does not show the URL: it may have a password."""
    try:
        parsed = make_url(url)
    except (ValueError, SQLAlchemyError):
        parsed = None
    if parsed is None or "@" in (parsed.host or ""):
        raise ConfigError(
            "The setting store_url takes a URL such as postgresql://user:password@host:5432/name. In user and password "
            "the characters @ : / ? # [ ] % must be percent-encoded, such as %40 for @."
        )
    return parsed


def _sqlite(file: Path) -> Engine:
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))  # its -wal and -shm get the same mode
    except OSError as error:
        raise Unavailable(f"The state store {file} cannot be opened: {error.strerror}.") from None
    engine = create_engine(
        URL.create("sqlite", database=str(file)),
        connect_args={"check_same_thread": False, "timeout": _BUSY_SECONDS},
        pool_reset_on_return=None,  # each transaction has its own end; a rollback after it does nothing, and takes time
    )

    @event.listens_for(engine, "connect")
    def settle(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # else the driver begins transactions by itself, and too late
        # Some builds fill what is deleted with zeros, which takes as much room on the disk again.
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
    """Runs changes one after the other. Changes that come while another is being written share the next commit."""

    def __init__(self, engine: Engine, file: Path | None = None, min_free: int | None = None) -> None:
        """`file` is SQLite's. `min_free` bytes of its disk stay free: by default 64 MiB, or 5 % of a smaller disk."""
        self._engine = engine
        self._lazy_engine = engine.execution_options(is_durable=False)
        self._file = file
        self._min_free = min_free
        self._waiting: deque[_Waiting[Any]] = deque()
        self._writing = threading.Lock()
        self._fault = ""

    @property
    def is_shared(self) -> bool:
        """Whether other nodes may use it too."""
        return self._engine.dialect.name != "sqlite"

    def write(self, change: Change[Result], *, durable: bool = True) -> Result:
        """What `change` returns of its connection, once that is committed. Any thread may call.

        If `durable` is false, the commit survives the end of this process, but a crash of the machine (or of
        PostgreSQL) may undo it: nothing waits for the disk. The next durable commit makes it durable, too.

        A change may run twice, so its second run must do no harm. What it raises of ours undoes nothing: it should do
        so before it writes. Raises `Unavailable` where the database fails.
        """
        mine = _Waiting(change, durable)
        self._waiting.append(mine)
        with self._writing:
            if not mine.is_done:
                self._commit([self._waiting.popleft() for _ in range(len(self._waiting))])
        return mine.result()

    def check_room(self, size: int = 0) -> None:
        """Raise `Unavailable` where `size` more bytes would leave too little of the disk: what is there already needs
        some until it is done with."""
        if self._file is None:
            return
        disk = os.statvfs(self._file.parent)
        least = self._min_free
        if least is None:
            least = min(_MIN_FREE, disk.f_blocks * disk.f_frsize // 20)
        needed = least + 2 * size  # once in the log, once in the file
        available = disk.f_bavail * disk.f_frsize
        if available - _size(self._log) < needed and available + self.write(self._unused) < needed:
            raise Unavailable(
                "The disk of the server's state store is almost full (setting outbox_min_free): nothing was taken, try "
                "again later."
            )

    @property
    def _log(self) -> Path:
        assert self._file is not None  # noqa: S101  asked for SQLite's alone
        return self._file.with_name(f"{self._file.name}-wal")

    def _unused(self, connection: Connection) -> int:
        """The bytes that the file has free inside, less those by which it is about to grow."""
        assert self._file is not None  # noqa: S101  asked for SQLite's alone
        pages, free, size = (
            int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
            for name in ("page_count", "freelist_count", "page_size")
        )
        return free * size - max(0, pages * size - _size(self._file))

    def close(self) -> None:
        self._engine.dispose()

    def _commit(self, batch: "list[_Waiting[Any]]", *, again: bool = True) -> None:
        has_begun = False
        engine = self._engine if any(each.is_durable for each in batch) else self._lazy_engine
        try:
            with engine.begin() as connection:
                has_begun = True
                for each in batch:
                    each.run(connection)
        except SQLAlchemyError as error:
            if again and _is_full(error) and self._make_room():
                self._commit(batch, again=False)
            elif has_begun and len(batch) > 1:
                for each in batch:
                    self._commit([each])
            elif again and isinstance(error, DBAPIError) and error.connection_invalidated:
                self._commit(batch, again=False)
            else:
                self._say(str(getattr(error, "orig", error)).strip().partition("\n")[0])
                for each in batch:  # one alone, or all of them in vain
                    each.failure = Unavailable("The server's state store does not answer; its log says why.")
        else:
            self._say("")
        for each in batch:
            each.is_done = True

    def _make_room(self) -> bool:
        """Let SQLite's log begin anew, in the room that it has already. Whether that could be done."""
        connection = self._engine.raw_connection()
        try:
            return not connection.cursor().execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]
        except sqlite3.Error:
            return False
        finally:
            connection.close()

    def _say(self, fault: str) -> None:
        """Log what has gone wrong when it begins, and when it is over."""
        if fault and fault != self._fault:
            log.error("The state store fails: %s", fault)
        elif self._fault and not fault:
            log.info("The state store answers again")
        self._fault = fault


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _is_full(error: SQLAlchemyError) -> bool:
    return getattr(getattr(error, "orig", None), "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


class _Waiting(Generic[Result]):
    """A change that a thread waits for."""

    def __init__(self, change: Change[Result], is_durable: bool) -> None:
        self.is_durable = is_durable
        self._change = change
        self._result: list[Result] = []
        self.failure: KafkaHttpError | None = None
        self.is_done = False

    def run(self, connection: Connection) -> None:
        try:
            self._result = [self._change(connection)]
        except KafkaHttpError as refusal:
            self.failure = refusal

    def result(self) -> Result:
        if self.failure is not None:
            raise self.failure
        return self._result[0]

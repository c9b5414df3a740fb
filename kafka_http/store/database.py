"""One database, SQLite's file in the data directory or a PostgreSQL: opening it, its one writer at a time."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kafka_http.config import ConfigError
from kafka_http.errors import KafkaHttpError, Unavailable, how_to_install
from kafka_http.store.schema import upgrade

log = logging.getLogger(__name__)

FILE_NAME = "store.sqlite"
_CONNECT_SECONDS = 3
_BUSY_SECONDS = 2

Result = TypeVar("Result")
Change = Callable[[Connection], Result]


def open_database(data_dir: Path, url: str = "") -> "Database":
    """The store of a node: the PostgreSQL at `url`, or without one a file in `data_dir`, which must be there.

    Its schema is brought up to date. Raises `Unavailable`, whose sentence says what is wrong with it.
    """
    engine = _postgresql(parse_store_url(url)) if url else _sqlite(data_dir / FILE_NAME)
    database = Database(engine)
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
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL) -> Engine:
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=1,
            connect_args={"connect_timeout": _CONNECT_SECONDS, "tcp_user_timeout": 1000 * _CONNECT_SECONDS},
        )
    except ImportError:
        raise Unavailable(f"The setting store_url needs the package psycopg. {how_to_install('postgresql')}") from None


class Database:
    """Runs changes one after the other. Changes that come while another is being written share the next commit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[_Waiting[Any]] = deque()
        self._writing = threading.Lock()
        self._fault = ""

    @property
    def is_shared(self) -> bool:
        """Whether other nodes may use it too."""
        return self._engine.dialect.name != "sqlite"

    def write(self, change: Change[Result]) -> Result:
        """What `change` returns of its connection, once that is committed. Any thread may call.

        A change may run twice, so its second run must do no harm. What it raises of ours undoes nothing: it should do
        so before it writes. Raises `Unavailable` where the database fails.
        """
        mine = _Waiting(change)
        self._waiting.append(mine)
        with self._writing:
            if not mine.is_done:
                self._commit([self._waiting.popleft() for _ in range(len(self._waiting))])
        return mine.result()

    def close(self) -> None:
        self._engine.dispose()

    def _commit(self, batch: "list[_Waiting[Any]]", *, again: bool = True) -> None:
        has_begun = False
        try:
            with self._engine.begin() as connection:
                has_begun = True
                for each in batch:
                    each.run(connection)
        except SQLAlchemyError as error:
            if has_begun and len(batch) > 1:
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

    def _say(self, fault: str) -> None:
        """Log what has gone wrong when it begins, and when it is over."""
        if fault and fault != self._fault:
            log.error("The state store fails: %s", fault)
        elif self._fault and not fault:
            log.info("The state store answers again")
        self._fault = fault


class _Waiting(Generic[Result]):
    """A change that a thread waits for."""

    def __init__(self, change: Change[Result]) -> None:
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

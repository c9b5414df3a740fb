"""Publishes that no thread waits for: granian's threads hand them over, and whichever thread hears of Kafka's
acknowledgement gives granian the answer. All other requests take WSGI's way.

WSGI knows no answer that comes after the call. granian's own interface below it does, which is not public: where it is
not as it was, nothing is taken.
"""

import importlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO
from threading import Thread
from typing import Any, Protocol

from kafka_http.logs import request_id
from kafka_http.server.granian.access_log import Line
from kafka_http.server.plain import MAX_BODY
from kafka_http.server.publishes import Publish, Publishes

log = logging.getLogger(__name__)

_LATE_SECONDS = 0.5
"""How much later than promised a publish may be answered that Kafka does not answer."""

_MODULE, _WRAP = "granian.server.mp", "_wsgi_call_wrap"
"""What is not public: the function that makes a callable for granian's (protocol, scope) of a WSGI application. What it
makes may return before `response_bytes` of the protocol is called, and by whom it is called does not matter."""

_TARGET = re.compile(r"/(?:messages|topics)/[A-Za-z0-9._/-]+")
_SPECIAL = frozenset(
    f"HTTP_{name}"
    for name in ("TRANSFER_ENCODING", "CONTENT_ENCODING", "EXPECT", "UPGRADE", "TE", "TRAILER", "AUTHORIZATION")
)

_PROXIED = frozenset(("forwarded", "x-forwarded-for"))
"""Who the client is, the application finds out, for the access log."""


class GranianProtocol(Protocol):
    """What granian gives for an answer. It may come at any time, from any thread."""

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


class Threadless:
    """The publishes of a worker that Kafka has not answered."""

    def __init__(self, publishes: Publishes, *, access_log: bool) -> None:
        self._publishes = publishes
        self._access_log = access_log
        self._owed: dict[_Owed, _Owed] = {}  # whoever pops one answers it: no two threads can
        self._reading: set[int] = set()
        Thread(target=self._expire, name="expiry", daemon=True).start()

    @property
    def in_flight(self) -> int:
        """Requests that are read or owed an answer."""
        return len(self._reading) + len(self._owed)

    def take(self, protocol: GranianProtocol, scope: dict[str, Any]) -> bool:
        """Take a request; false, with nothing done, for one that is WSGI's. `scope` is what it will have for environ.
        Any thread may call."""
        target = _target_of_plain(scope)
        if target is None:
            return False
        headers = _headers(scope)
        if "" in headers.values() or (self._access_log and not _PROXIED.isdisjoint(headers)):
            return False  # what granian gives as empty may be what is not ASCII
        body = self._read(scope)
        if len(body) != int(scope["CONTENT_LENGTH"]):
            return False
        owed = _Owed(protocol, Line(scope) if self._access_log else None)
        done = partial(self._done, owed)
        publish = self._publishes.begin(scope["REQUEST_METHOD"], target, headers, body, done)
        request_id.set("-")
        if publish is None:
            return False
        owed.deadline = time.monotonic() + publish.timeout
        self._owed[owed] = owed
        owed.publish = publish
        self._publishes.send()
        if owed.settled:
            self._answer(owed)
        return True

    def _read(self, scope: dict[str, Any]) -> bytes:
        """The body, which is left to be read again."""
        self._reading.add(id(scope))
        try:
            body: bytes = scope["wsgi.input"].read()
        finally:
            self._reading.discard(id(scope))
        scope["wsgi.input"] = BytesIO(body)
        return body

    def _done(self, owed: "_Owed") -> None:
        """Kafka has answered. Called by any thread, and perhaps before `begin` has returned."""
        owed.settled = True
        if owed.publish is not None:
            self._answer(owed)

    def _answer(self, owed: "_Owed") -> None:
        """Answer an owed request, once. Whoever calls does it himself: to wake a thread for it takes longer."""
        if self._owed.pop(owed, None) is None or owed.publish is None:
            return
        try:
            status, headers, body = owed.publish.answer()
            if owed.line is not None:
                owed.line.status = status
                owed.line.write(len(body))
            owed.protocol.response_bytes(int(status[:3]), list(headers), body)
        except BaseException:  # a panic of granian's is no Exception, and the caller has others to call
            log.exception("An answer could not be given")
        finally:
            request_id.set("-")

    def _expire(self) -> None:
        while True:
            time.sleep(_LATE_SECONDS)
            now = time.monotonic()
            for owed in list(self._owed):
                if owed.deadline <= now:
                    self._answer(owed)


class _Owed:
    """A request that is owed an answer."""

    __slots__ = ("deadline", "line", "protocol", "publish", "settled")

    def __init__(self, protocol: GranianProtocol, line: Line | None) -> None:
        self.protocol = protocol
        self.line = line
        self.publish: Publish | None = None
        self.deadline = 0.0
        self.settled = False


def take_first(take: Callable[[GranianProtocol, dict[str, Any]], bool]) -> None:
    """Ask `take` about each request that granian is going to make a WSGI call of. To be called in a worker, before
    granian wraps its application."""
    processes: Any = importlib.import_module(_MODULE)
    wrap = getattr(processes, _WRAP, None)
    if wrap is None:
        log.warning("Publishes wait for Kafka in threads, which is slower: granian is not as expected")
        return

    def wrap_both(*given: Any) -> Callable[[GranianProtocol, dict[str, Any]], None]:
        call = wrap(*given)

        def call_either(protocol: GranianProtocol, scope: dict[str, Any]) -> None:
            if not take(protocol, scope):
                call(protocol, scope)

        return call_either

    setattr(processes, _WRAP, wrap_both)


def _target_of_plain(scope: Mapping[str, Any]) -> str | None:
    """Path and query of a request that has nothing about it which HTTP treats in a special way."""
    path, query = scope["PATH_INFO"], scope["QUERY_STRING"]
    if scope["REQUEST_METHOD"] not in {"POST", "PUT"} or _TARGET.fullmatch(path) is None or not query.isascii():
        return None
    length = scope.get("CONTENT_LENGTH", "")
    if not (length.isdigit() and len(length) < 7 and int(length) <= MAX_BODY) or not _SPECIAL.isdisjoint(scope):
        return None
    return f"{path}?{query}" if query else path


def _headers(scope: Mapping[str, Any]) -> dict[str, str]:
    headers = {name[5:].replace("_", "-").lower(): text for name, text in scope.items() if name.startswith("HTTP_")}
    if "CONTENT_TYPE" in scope:
        headers["content-type"] = scope["CONTENT_TYPE"]
    return headers

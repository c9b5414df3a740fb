"""Calls of queues on the fast path: acquire a few messages, settle leases of this node."""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Lock

import msgspec
from werkzeug.datastructures import MultiDict

from kafka_http.consumers.queue_service import LoopQueues, PendingCall, QueuePage
from kafka_http.errors import KafkaHttpError, Unavailable, WouldBlock
from kafka_http.logs import request_id
from kafka_http.pending import DoneCallbacks
from kafka_http.records import payload_size
from kafka_http.request_facts import count_messages
from kafka_http.security.access import Access
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.forwarded_calls import NODE_HEADER
from kafka_http.security.stream_access import StreamAccess
from kafka_http.web.fast_path import PreparedStart
from kafka_http.web.page_memory import PageMemoryBudget, PageReservation
from kafka_http.web.queue import WAIT_SLICE
from kafka_http.web.queue_nodes import QueueNodes
from kafka_http.web.queue_pages import QueuePages
from kafka_http.web.queue_requests import PREFIX, AcquireRequest, SettleRequest
from kafka_http.web.request_head import RequestHead
from kafka_http.web.responses import RenderedResponse, render_error
from kafka_http.web.services import Services
from kafka_http.web.topic_hints import TopicHint, TopicHints

_MAX_LIMIT = 50
"""Messages of a page that the main loop renders. More would delay its other requests."""
_MAX_BYTES = 1 << 16
"""Size of such a page. A larger one is rendered in a thread."""
_CALL_SECONDS = 95.0
"""Timeout of a call, in addition to its wait. It is long, because a daemon that hangs is noticed otherwise."""
_NODE = NODE_HEADER.lower()
_RENDERING_THREADS = 2
_REGISTRY_THREADS = 32
"""As many pages may wait for the schema registry as in the views. If it hangs, each one takes seconds."""


class FastPathQueues:
    """The `FastPathRoute` of queues. The main loop calls it."""

    path = re.compile(
        r"/messages/(?P<topic>[A-Za-z0-9._-]+)/(?P<consumer>[A-Za-z0-9._-]+)/queue(?:/(?P<leases>[A-Za-z0-9._:,-]+))?"
    )

    def __init__(
        self,
        queues: LoopQueues | None,
        services: Services,
        nodes: QueueNodes,
        pages: QueuePages,
        *,
        page_memory: PageMemoryBudget,
        check_point: CheckPoint,
        hints: TopicHints,
    ) -> None:
        """`queues` is None if this process holds them: then the views respond."""
        self.queues = queues
        self.services = services
        self.pages = pages
        self.page_memory = page_memory
        self.check_point = check_point
        self._nodes = nodes
        self._hints = hints
        self._rendering = ThreadPoolExecutor(_RENDERING_THREADS, "queue page")
        self._waiting = ThreadPoolExecutor(_REGISTRY_THREADS, "queue page, registry")

    def run_in_thread(self, work: Callable[[], None], *, may_wait: bool) -> None:
        """Run what may take long in a thread. What may wait for the schema registry does not delay the rest."""
        (self._waiting if may_wait else self._rendering).submit(work)

    def require(self, path: re.Match[str], access: Access, args: MultiDict[str, str]) -> None:
        access.require("read", path["topic"])
        access.require("consumer", path["consumer"])
        for topic in args.getlist("dead"):
            access.require("publish", topic)

    def prepare(self, path: re.Match[str], head: RequestHead, query: str, access: Access) -> PreparedStart | None:
        if self.queues is None or _NODE in head.headers or (head.method == "POST") is not (path["leases"] is None):
            return None
        hint = self._hints.of_head(head.headers, access)
        if path["leases"] is None:
            return self._prepare_acquire(path["topic"], path["consumer"], head, access, hint)
        settle = SettleRequest.parse(head.method, path["topic"], path["consumer"], path["leases"], head.args)
        if not self._nodes.are_own(settle.leases):
            return None
        call = QueueCall(f"{PREFIX}/<leases>", path["topic"], _CALL_SECONDS, hint)
        return PreparedStart(call, partial(self._settle, settle), is_reusable=False)

    def _prepare_acquire(
        self, topic: str, consumer: str, head: RequestHead, access: Access, hint: TopicHint
    ) -> PreparedStart | None:
        acquire = AcquireRequest.parse(topic, consumer, head.args, head.headers.get("accept"), self.services.formats)
        if acquire.is_single or acquire.limit > _MAX_LIMIT:
            return None
        call = QueueCall(PREFIX, topic, acquire.wait + _CALL_SECONDS, hint)
        return PreparedStart(call, partial(self._acquire, acquire, access))

    def _settle(self, settle: SettleRequest, _: bytes) -> "PendingSettlement":
        assert self.queues is not None  # noqa: S101  checked in `prepare`
        queue, leases = settle.queue, settle.distinct_leases
        return PendingSettlement(settle, self.queues.start_settle(queue, leases, settle.settlement, settle.lock))

    def _acquire(self, acquire: AcquireRequest, access: Access, body: bytes) -> "PendingPage":
        if body or not self.services.topics.were_found(acquire.topics):
            raise WouldBlock
        memory = PageReservation(self.page_memory)
        self.page_memory.grant(memory, 1)
        try:
            return PendingPage(self, acquire, access, memory)
        except BaseException:
            memory.resize(0)
            raise


class QueueCall:
    """The `CallHead` of a call of a queue."""

    def __init__(self, route: str, topic: str, timeout: float, hint: TopicHint) -> None:
        self.route = route
        self.topic = topic
        self.timeout = timeout
        self._hint = hint

    def error_response(self, error: KafkaHttpError) -> RenderedResponse:
        return render_error(self._hint.explain(error))


class PendingSettlement:
    """The response to a call that settles leases. The main loop uses it."""

    on_sent = None

    def __init__(self, settle: SettleRequest, call: PendingCall) -> None:
        self._settle = settle
        self._call = call
        self.add_done_callback = call.add_done_callback
        self.release = call.abandon

    def result(self, timeout: float | None = None) -> RenderedResponse:
        return self._settle.render(self._call.result(timeout))


class PendingPage(DoneCallbacks):
    """The response to a call that acquires messages, within the time that its client waits. The main loop uses it.

    A thread renders a page that is large, or whose formats need the schema registry. The page is confirmed when it was
    sent, else released.
    """

    __slots__ = (
        "_access", "_asked", "_call", "_deadline", "_is_over", "_lock", "_memory", "_outcome", "_owner", "_page",
        "_request_id",
    )  # fmt: skip

    def __init__(self, owner: FastPathQueues, asked: AcquireRequest, access: Access, memory: PageReservation) -> None:
        """Start the call. Raises `Unavailable`."""
        super().__init__()
        self._owner = owner
        self._asked = asked
        self._access = access
        self._memory = memory
        self._page: QueuePage | None = None
        self._outcome: RenderedResponse | Exception | None = None
        self._lock = Lock()
        self._is_over = False
        """Whether the client has got an error because there was no result in time."""
        self._request_id = request_id.get()
        self._deadline = time.monotonic() + asked.wait
        self._ask(asked.wait)

    def result(self, timeout: float | None = None) -> RenderedResponse:
        """Return the response. Raises the error of the call, `Unavailable` if there is no result yet."""
        with self._lock:
            self._is_over = self._outcome is None
        if self._outcome is None:
            self._call.abandon()
            raise Unavailable("The server's daemon did not answer in time. Retry.")
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def release(self) -> None:
        """Release the memory, unless the client gets a page."""
        if self._page is None:
            self._memory.resize(0)

    @property
    def on_sent(self) -> Callable[[bool], None] | None:
        """What ends the page; None if the response has none: also if the page was not rendered in time."""
        return None if self._page is None or self._is_over else self._end

    def _ask(self, left: float) -> None:
        queues, asked = self._owner.queues, self._asked
        assert queues is not None  # noqa: S101  checked in `prepare`
        wait = min(left, WAIT_SLICE)
        self._call = queues.start_acquire(asked.queue, asked.limit, wait, asked.lock, asked.dead)
        self._call.add_done_callback(self._on_page)

    def _on_page(self) -> None:
        token = request_id.set(self._request_id)
        try:
            self._use(self._call.result(0))
        except Exception as error:
            self._finish(error)
        finally:
            request_id.reset(token)

    def _use(self, page: QueuePage) -> None:
        """Render a page, or ask again if it is empty and there is time left."""
        left = 0 if self._owner.services.reader.is_stopping else self._deadline - time.monotonic()
        if page.messages:
            self._page = page
        elif left > 0:
            with suppress(WouldBlock):  # there are too many calls: the client gets the empty page now
                self._ask(left)
                return
        records = [each.record for each in page.messages]
        size = payload_size(records)
        self._memory.hold(size)
        may_wait = self._owner.services.formats.may_wait(self._asked.decode_as, records)
        if size > _MAX_BYTES or may_wait:
            self._owner.run_in_thread(partial(self._render, page, size), may_wait=may_wait)
        else:
            self._render(page, size)

    def _render(self, page: QueuePage, size: int) -> None:
        owner, topic = self._owner, self._asked.queue.topic
        try:
            StreamAccess(owner.check_point, self._access, "read", topic).check()  # it may have waited for a minute
            response = self._asked.render(owner.services.formats, page)
            count_messages(topic, len(page.messages), size)
            self._memory.resize(len(response.body))
        except Exception as error:
            self._finish(error)
        else:
            self._finish(msgspec.structs.replace(response, records=len(page.messages)))

    def _finish(self, outcome: RenderedResponse | Exception) -> None:
        with self._lock:
            self._outcome = outcome
            is_over = self._is_over
        if self._page is not None and (is_over or isinstance(outcome, Exception)):
            self._end(is_sent=False)
        self.complete()

    def _end(self, is_sent: bool) -> None:
        page, self._page = self._page, None
        if page is not None:
            self._owner.pages.end(page.id, is_sent=is_sent)
            self._memory.resize(0)

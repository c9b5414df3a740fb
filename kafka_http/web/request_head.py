"""The head of a request: method, query and headers, for the views and for the fast path, which has no Flask request."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from flask import Request
from werkzeug.datastructures import MultiDict

from kafka_http.environ import HEADER_PAIRS
from kafka_http.web.access_check import request_access
from kafka_http.web.authority import server_root
from kafka_http.web.negotiation import is_streaming_upload

KEY_HEADER = "idempotency-key"
RESPOND_ASYNC = "respond-async"


class RespondAsync(NamedTuple):
    """A request for a response before Kafka has the messages. The result is sent to `callback_url`, if given.

    `owner` is that of the task.
    """

    callback_url: str | None
    owner: str = ""


class RequestHead(NamedTuple):
    """A request without its body. Header names are in lower case.

    `root_path` is the path before this server's own paths, for links. `repeated` has each occurrence of the `kafka-*`
    headers that were sent more than once, if the server passes them on. `owner` is that of `Access`: tasks and
    idempotency keys belong to it.
    """

    method: str
    args: MultiDict[str, str]
    headers: Mapping[str, str]
    root_path: str = ""
    repeated: Sequence[tuple[str, str]] = ()
    owner: str = ""

    @classmethod
    def from_request(cls, request: Request, base_url: str = "") -> Self:
        headers = {name.lower(): value for name, value in request.headers.items()}
        root, owner = root_path(request, base_url), request_access().owner
        return cls(request.method, request.args, headers, root, _repeated_headers(request), owner)

    @property
    def all_headers(self) -> Collection[tuple[str, str]]:
        """All headers, with each occurrence of a repeated one."""
        if not self.repeated:
            return self.headers.items()
        names = {name for name, _ in self.repeated}
        return [*(each for each in self.headers.items() if each[0] not in names), *self.repeated]

    @property
    def is_streaming_upload(self) -> bool:
        """Whether the request publishes while its body arrives: a POST of NDJSON that prefers an NDJSON response."""
        return is_streaming_upload(self.method, self.headers.get("accept"), self.headers.get("content-type"))

    def prefers(self, preference: str) -> bool:
        """Whether the `Prefer` header (RFC 7240) has this preference."""
        sent = self.headers.get("prefer")
        return sent is not None and preference in [each.partition(";")[0].strip().lower() for each in sent.split(",")]

    def respond_async(self, callback_url: str | None) -> RespondAsync | None:
        """Return the request for an early response, which a callback URL implies; None if there is none."""
        is_asked = callback_url is not None or self.prefers(RESPOND_ASYNC)
        return RespondAsync(callback_url, self.owner) if is_asked else None


def root_path(request: Request, base_url: str) -> str:
    """Return the path before this server's own paths, such as `/rest`, or an empty text."""
    return urlsplit(base_url).path.rstrip("/") or server_root(request.environ)


def _repeated_headers(request: Request) -> list[tuple[str, str]]:
    pairs = [(name.lower(), value) for name, value in request.environ.get(HEADER_PAIRS, ())]
    counts = Counter(name for name, _ in pairs if name.startswith("kafka-"))
    return [(name, value) for name, value in pairs if counts[name] > 1]

"""Responses: JSON and errors in the form of each dialect, with and without Flask.

`render_…` functions return a `RenderedResponse`, which the fast path and stored responses use too. `…_response`
functions return a Flask response.
"""

import logging
import re
from collections.abc import Mapping
from random import getrandbits
from types import MappingProxyType
from typing import Any

import msgspec
from flask import Flask, Response, current_app, request
from msgspec import Struct
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.http import HTTP_STATUS_CODES

from kafka_http.errors import KafkaHttpError, NotAcceptable, PartitionNotFound, TooLarge, TopicNotFound, status_of
from kafka_http.logs import request_id
from kafka_http.records import AppendedRecords
from kafka_http.request_facts import count_records
from kafka_http.tasks import NewTask, Task, task_to_dict
from kafka_http.web.negotiation import JSON, V2, v2_response_type

log = logging.getLogger(__name__)

STATUS_LINES: Mapping[int, str] = {status: f"{status} {reason}" for status, reason in HTTP_STATUS_CODES.items()}
"""`204 No Content` for 204. Werkzeug writes the reason in capitals."""
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_V2_PATH = re.compile(r"/|/(topics|brokers|consumers)(/.*)?", re.DOTALL)
_V2_MESSAGES: Mapping[type[KafkaHttpError], str] = {
    TopicNotFound: "Topic not found.",
    PartitionNotFound: "Partition not found.",
}
"""Messages that clients of the v2 API compare."""


class RenderedResponse(Struct, frozen=True, gc=False):
    """A response without Flask. `headers` excludes Content-Type, Content-Length and `common_headers()`."""

    status: int
    headers: Mapping[str, str]
    content_type: str
    body: bytes
    records: int = 0
    """Records that the request has written to Kafka, or that it gets. A repeated response has written none."""


_LAST_DIGITS = [f"{each:03}" for each in range(1000)]
"""The last three digits of offsets: to join them is several times as fast as to format each offset."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def json_bytes(body: Any) -> bytes:
    """Encode a response body as JSON with a newline at its end. Bytes must be JSON already."""
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return encoded if encoded.endswith(b"\n") else encoded + b"\n"


def render_json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> RenderedResponse:
    """Render a JSON response without Flask."""
    return RenderedResponse(status, headers or {}, JSON, json_bytes(body))


def render_v2_json(
    body: Any, accept: str | None, status: int = 200, headers: Mapping[str, str] | None = None
) -> RenderedResponse:
    """Render a response of the v2 API. `accept` is the request's Accept header. Raises `NotAcceptable`."""
    return RenderedResponse(status, headers or {}, v2_response_type(accept), json_bytes(body))


def appended_entries(appended: AppendedRecords, fields: str) -> str:
    """Return the objects of a JSON array, each with partition, offset and further `fields`, from a template.

    >>> appended_entries(AppendedRecords(0, 7, 2, None), ',"error":null')
    '{"partition":0,"offset":7,"error":null},{"partition":0,"offset":8,"error":null}'
    """
    if len(appended) == 1:
        return f'{{"partition":{appended.partition},"offset":{appended.base_offset}{fields}}}'
    end, entries = fields + "}", []
    offsets = range(appended.base_offset, appended.base_offset + len(appended))
    while offsets:
        thousands, first = divmod(offsets[0], 1000)
        start = f'{{"partition":{appended.partition},"offset":{thousands or ""}'
        digits = _LAST_DIGITS[first : first + len(offsets)] if thousands else [*map(str, offsets[: 1000 - first])]
        entries.append(f"{start}{f'{end},{start}'.join(digits)}{end}")
        offsets = offsets[len(digits) :]
    return ",".join(entries)


def render_accepted(task: NewTask, root_path: str, content_type: str) -> RenderedResponse:
    """Render the 202 response of a publish that was stored for later, with the URL of its task."""
    headers = {"Location": f"{root_path}/tasks/{task.id}", "Preference-Applied": "respond-async"}
    shown = task_to_dict(Task(task.id, task.topic, "pending", task.created))
    return RenderedResponse(202, headers, content_type, json_bytes({"task": shown}))


def error_headers(error: KafkaHttpError) -> dict[str, str]:
    """Return the headers of an error's response."""
    return {**error.headers, **({} if error.retry_after is None else {"Retry-After": str(error.retry_after)})}


def render_error(error: KafkaHttpError, **more: Any) -> RenderedResponse:
    """Render an error of the /messages dialect. `more` are further fields next to `error`."""
    return render_json({"error": error.as_object(), **more}, error.status, error_headers(error))


def render_v2_error(
    error: KafkaHttpError, accept: str | None, headers: Mapping[str, str] | None = None, **more: Any
) -> RenderedResponse:
    """Render an error of the v2 API. `more` are further fields."""
    message = _V2_MESSAGES.get(type(error), error.message)
    return _render_v2_error(error.code, message, accept, {**error_headers(error), **(headers or {})}, **more)


def _render_v2_error(
    code: int, message: str, accept: str | None, headers: Mapping[str, str], **more: Any
) -> RenderedResponse:
    try:
        content_type = v2_response_type(accept)
    except NotAcceptable:  # an error is sent even if the client does not accept its type
        content_type = V2
    body = json_bytes({"error_code": code, "message": message, **more})
    return RenderedResponse(status_of(code), headers, content_type, body)


def internal_error() -> KafkaHttpError:
    """Return the error that a client gets for a defect of this server. The caller logs the traceback."""
    return KafkaHttpError(f"Internal server error. The server's log has details under request id {request_id.get()}.")


def valid_request_id(sent: str | None) -> str | None:
    """Return the id that a client gave its request, or None if it has none or an invalid one."""
    return sent if sent and _REQUEST_ID.fullmatch(sent) else None


def new_request_id() -> str:
    """Return a random id. `os.urandom` would give up the GIL, which costs a thread its turn."""
    return f"{getrandbits(128):032x}"


def set_request_id(sent: str | None) -> None:
    """Set the request id, which log lines and the response carry: the client's, or a random one."""
    request_id.set(valid_request_id(sent) or new_request_id())


def common_headers() -> list[tuple[str, str]]:
    """Return the headers that every response has."""
    return [("X-Request-Id", request_id.get()), ("Cache-Control", "no-store")]


def flask_response(rendered: RenderedResponse) -> Response:
    """Convert a rendered response for Flask, and count the records that the request has written."""
    if rendered.records:
        count_records(rendered.records)
    return Response(rendered.body, rendered.status, rendered.headers, content_type=rendered.content_type)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response. Bytes must be JSON already."""
    return flask_response(render_json(body, status, headers))


def v2_response(body: Any) -> Response:
    """Return a response of the v2 API, of the type that the client accepts. Bytes must be JSON already."""
    return flask_response(render_v2_json(body, request.headers.get("Accept")))


def error_response(error: KafkaHttpError) -> Response:
    """Return the response for an error, in the dialect of the request's path."""
    if _V2_PATH.fullmatch(request.path):
        return flask_response(render_v2_error(error, request.headers.get("Accept")))
    return flask_response(render_error(error))


def _http_error(error: HTTPException) -> Response:
    """Return the response for an error of Flask or Werkzeug."""
    code = error.code or 500
    headers = {}
    message = error.description or error.name
    is_v2 = _V2_PATH.fullmatch(request.path)
    if isinstance(error, NotFound):
        topics = "/topics" if is_v2 else "/messages"
        message = f"There is nothing at {request.path[:100]}. GET {topics} lists topics, and the manual is at /docs."
        if request.path.rstrip("/") == "/console":  # only while it is off, or there would be a page
            message = "The console is off. To turn it on, start the server with the setting console (--console)."
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        message, headers = f"{request.method} is not allowed here. Allowed: {allowed}.", {"Allow": allowed}
    if is_v2:
        return flask_response(_render_v2_error(code, message, request.headers.get("Accept"), headers))
    return json_response({"error": {"code": code, "message": message}}, code, headers)


def _body_too_large(_: RequestEntityTooLarge) -> Response:
    limit = request.max_content_length or 0
    name = "max_body_bytes" if limit == current_app.config["MAX_CONTENT_LENGTH"] else "the limit of this call"
    return error_response(TooLarge(f"Body is larger than {name}, {limit} bytes.", limit=limit))


def _unexpected_error(error: Exception) -> Response:
    log.exception("Unexpected error: %s %s", request.method, request.path)
    return error_response(internal_error())


def register_error_handlers(app: Flask) -> None:
    """Register the handlers for our errors, for HTTP errors, and for unexpected ones."""
    app.register_error_handler(KafkaHttpError, error_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(RequestEntityTooLarge, _body_too_large)
    app.register_error_handler(Exception, _unexpected_error)

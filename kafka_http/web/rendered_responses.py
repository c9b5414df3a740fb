"""Answers without a web framework: status, headers, body, in the form of each dialect."""

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from werkzeug.http import HTTP_STATUS_CODES

from kafka_http.errors import KafkaHttpError, NotAcceptable, PartitionNotFound, TopicNotFound, status_of
from kafka_http.logs import request_id
from kafka_http.tasks import NewTask, Task, task_to_dict
from kafka_http.web.negotiation import JSON, V2, v2_answer_type

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
STATUS_LINES: Mapping[int, str] = {status: f"{status} {reason}" for status, reason in HTTP_STATUS_CODES.items()}
"""`204 No Content` for 204. Werkzeug by itself has the reason in capitals."""
_V2_MESSAGES: Mapping[type[KafkaHttpError], str] = {
    TopicNotFound: "Topic not found.",
    PartitionNotFound: "Partition not found.",
}
"""What clients of the v2 API know these by."""


class RenderedResponse(NamedTuple):
    """`headers` are those beside Content-Type, Content-Length and the ones that every answer has (`tags`)."""

    status: int
    headers: Mapping[str, str]
    content_type: str
    body: bytes


def json_text(body: Any) -> bytes:
    """The JSON text of an answer, which ends with a newline. Bytes are taken to be JSON text already."""
    text = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return text if text.endswith(b"\n") else text + b"\n"


def json_answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> RenderedResponse:
    """An answer in JSON. Bytes are taken to be JSON text already."""
    return RenderedResponse(status, headers or {}, JSON, json_text(body))


def v2_answer(
    body: Any, accept: str | None, status: int = 200, headers: Mapping[str, str] | None = None
) -> RenderedResponse:
    """An answer of the v2 API, of the type that the client likes best by its Accept header. Bytes are taken to be JSON
    text already. Raises `NotAcceptable`."""
    return RenderedResponse(status, headers or {}, v2_answer_type(accept), json_text(body))


def accepted_answer(task: NewTask, root: str, content_type: str) -> RenderedResponse:
    """The answer that a task is safe, and where to ask about it."""
    headers = {"Location": f"{root}/tasks/{task.id}", "Preference-Applied": "respond-async"}
    shown = task_to_dict(Task(task.id, task.topic, "pending", task.created))
    return RenderedResponse(202, headers, content_type, json_text({"task": shown}))


def retry_header(error: KafkaHttpError) -> dict[str, str]:
    """The headers that an error's answer has."""
    return {**error.headers, **({} if error.retry_after is None else {"Retry-After": str(error.retry_after)})}


def error_answer(error: KafkaHttpError, **more: Any) -> RenderedResponse:
    """The answer of the /messages dialect for an error; `more` goes beside it."""
    return json_answer({"error": error.as_object(), **more}, error.status, retry_header(error))


def v2_error_answer(
    error: KafkaHttpError, accept: str | None, headers: Mapping[str, str] | None = None, **more: Any
) -> RenderedResponse:
    """The answer of the v2 API for an error."""
    message = _V2_MESSAGES.get(type(error), error.message)
    return v2_error(error.code, message, accept, {**retry_header(error), **(headers or {})}, **more)


def v2_error(code: int, message: str, accept: str | None, headers: Mapping[str, str], **more: Any) -> RenderedResponse:
    try:
        content_type = v2_answer_type(accept)
    except NotAcceptable:  # an error is told all the same
        content_type = V2
    return RenderedResponse(
        status_of(code), headers, content_type, json_text({"error_code": code, "message": message, **more})
    )


def unforeseen() -> KafkaHttpError:
    """What a client is told of a defect of ours. The log must have its traceback."""
    return KafkaHttpError(f"Unforeseen error; the server's log says more under the request's id, {request_id.get()}.")


def number_request(given: str | None) -> None:
    """Take the request's id, or give it one: it is in each line of the log and in the answer."""
    request_id.set(given if given and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex())


def tags() -> list[tuple[str, str]]:
    """The headers that every answer has."""
    return [("X-Request-Id", request_id.get()), ("Cache-Control", "no-store")]

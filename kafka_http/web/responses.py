"""Answers: JSON, and errors in the shape of the dialect whose path was asked for."""

import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from kafka_http.errors import (
    KafkaHttpError,
    NotAcceptable,
    PartitionNotFound,
    TooLarge,
    TopicNotFound,
    status_of,
)
from kafka_http.logs import request_id
from kafka_http.web.negotiation import V2, v2_answer_type

log = logging.getLogger(__name__)

_V2_PATH = re.compile(r"/|/(topics|brokers|consumers)(/.*)?", re.DOTALL)
_V2_MESSAGES: Mapping[type[KafkaHttpError], str] = {
    TopicNotFound: "Topic not found.",
    PartitionNotFound: "Partition not found.",
}
"""What clients of the v2 API know these by."""


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON. Bytes are taken to be JSON text already."""
    text = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(text, status, headers, content_type="application/json")


def v2_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of the v2 API, of the type that the client likes best. Bytes are taken to be JSON text already."""
    text = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return Response(text, status, headers, content_type=v2_answer_type(request.accept_mimetypes))


def error_object(error: KafkaHttpError) -> dict[str, Any]:
    """The `error` of an answer of the /messages dialect."""
    return {"code": error.code, "message": error.message, **error.fields}


def retry_header(error: KafkaHttpError) -> dict[str, str]:
    return {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}


def error_response(error: KafkaHttpError, **more: Any) -> Response:
    """The answer for an error of ours, rendered as the path asks for; `more` goes beside it."""
    if _V2_PATH.fullmatch(request.path):
        message = _V2_MESSAGES.get(type(error), error.message)
        return _v2_error(error.code, message, retry_header(error), **more)
    return json_response({"error": error_object(error), **more}, error.status, retry_header(error))


def _v2_error(code: int, message: str, headers: Mapping[str, str], **more: Any) -> Response:
    try:
        content_type = v2_answer_type(request.accept_mimetypes)
    except NotAcceptable:  # an error is told all the same
        content_type = V2
    body = msgspec.json.encode({"error_code": code, "message": message, **more})
    return Response(body, status_of(code), headers, content_type=content_type)


def _http_error(error: HTTPException) -> Response:
    """What Flask and Werkzeug raise by themselves, said in our words."""
    code = error.code or 500
    headers = {}
    message = error.description or error.name
    if isinstance(error, NotFound):
        listing = "/topics" if _V2_PATH.fullmatch(request.path) else "/messages"
        message = f"There is nothing at {request.path[:100]}. GET {listing} lists the topics."
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        message, headers = f"{request.method} is not allowed here. Allowed: {allowed}.", {"Allow": allowed}
    if _V2_PATH.fullmatch(request.path):
        return _v2_error(code, message, headers)
    return json_response({"error": {"code": code, "message": message}}, code, headers)


def _too_large(_: RequestEntityTooLarge) -> Response:
    limit = request.max_content_length or 0
    return error_response(TooLarge(f"The body is over max_body_bytes, {limit} bytes.", limit=limit))


def _unforeseen(error: Exception) -> Response:
    """A defect of ours. The log has its traceback."""
    log.exception("unforeseen error: %s %s", request.method, request.path)
    return error_response(
        KafkaHttpError(f"Unforeseen error; the server's log says more under the request's id, {request_id.get()}.")
    )


def register_error_handlers(app: Flask) -> None:
    app.register_error_handler(KafkaHttpError, error_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    app.register_error_handler(Exception, _unforeseen)

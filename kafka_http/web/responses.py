"""Answers: JSON, and errors in the shape of the dialect whose path was asked for."""

import logging
import re
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from kafka_http.errors import KafkaHttpError, TooLarge
from kafka_http.web.rendered_responses import (
    RenderedResponse,
    error_answer,
    json_answer,
    unforeseen,
    v2_answer,
    v2_error,
    v2_error_answer,
)

log = logging.getLogger(__name__)

_V2_PATH = re.compile(r"/|/(topics|brokers|consumers)(/.*)?", re.DOTALL)


def as_response(answer: RenderedResponse) -> Response:
    return Response(answer.body, answer.status, answer.headers, content_type=answer.content_type)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON. Bytes are taken to be JSON text already."""
    return as_response(json_answer(body, status, headers))


def v2_response(body: Any) -> Response:
    """An answer of the v2 API, of the type that the client likes best. Bytes are taken to be JSON text already."""
    return as_response(v2_answer(body, request.headers.get("Accept")))


def error_response(error: KafkaHttpError) -> Response:
    """The answer for an error of ours, rendered as the path asks for."""
    if _V2_PATH.fullmatch(request.path):
        return as_response(v2_error_answer(error, request.headers.get("Accept")))
    return as_response(error_answer(error))


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
        return as_response(v2_error(code, message, request.headers.get("Accept"), headers))
    return json_response({"error": {"code": code, "message": message}}, code, headers)


def _too_large(_: RequestEntityTooLarge) -> Response:
    limit = request.max_content_length or 0
    name = "max_body_bytes" if limit == current_app.config["MAX_CONTENT_LENGTH"] else "the limit of this call"
    return error_response(TooLarge(f"The body is over {name}, {limit} bytes.", limit=limit))


def _unforeseen(error: Exception) -> Response:
    """A defect of ours. The log has its traceback."""
    log.exception("unforeseen error: %s %s", request.method, request.path)
    return error_response(unforeseen())


def register_error_handlers(app: Flask) -> None:
    app.register_error_handler(KafkaHttpError, error_response)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    app.register_error_handler(Exception, _unforeseen)

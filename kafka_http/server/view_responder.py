"""Runs the application for requests that the main loop has received, and writes its responses."""

import socket
import struct
import time
from collections.abc import Generator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser

from kafka_http.environ import (
    ADMISSION,
    BODY_ERROR,
    CLIENT_CERTIFICATE,
    CONNECTION,
    DETACH_STREAM,
    HEADER_PAIRS,
    RECEIVED_BYTES,
    REQUEST_STARTED,
)
from kafka_http.server.access_log import end_logger
from kafka_http.server.client_connection import ClientConnection
from kafka_http.server.request_reader import RequestReader
from kafka_http.server.stream_sender import StreamDetached, detach_stream

STALL_SECONDS = 30
"""Time without progress after which a client is disconnected."""


class ViewResponder:
    """Responds to requests with the application of a worker, which creates it when it starts to serve."""

    def __init__(self, worker: Any, *, is_tls: bool, can_detach: bool) -> None:
        """`worker` is gunicorn's. `can_detach`: a view may hand its response to the `StreamSender`."""
        self._worker = worker
        self._is_tls = is_tls
        self._can_detach = can_detach

    def respond(
        self, connection: ClientConnection, reader: RequestReader, is_streamed: bool
    ) -> Generator[None, None, bool]:
        """Respond to a request, as `ThreadWorker.handle` does. Runs in a thread, except for `/health`.

        Yields when unsent data must be sent before it continues. Returns whether the connection may be kept open.
        """
        client, send_buffer = connection.conn.client, connection.send_buffer
        request = reader.request
        try:
            request = self._request(connection, reader, is_streamed)
            return (yield from self._respond(connection, reader, request))
        except OSError as error:
            self._worker.log.debug("Connection broke: %s", error)
        except (Exception, SystemExit) as error:
            if send_buffer.has_data:
                self._worker.log.exception("Request failed after its response had started.")
            else:
                self._worker.handle_error(request, send_buffer, client, error)
        return False

    def _respond(
        self, connection: ClientConnection, reader: RequestReader, request: Any
    ) -> Generator[None, None, bool]:
        send_buffer = connection.send_buffer
        started, response, is_detached = time.monotonic(), None, False
        environ: dict[str, Any] = {}
        self._worker.cfg.pre_request(self._worker, request)
        try:
            response, environ = self._response_and_environ(connection, reader, request)
            if connection.closes_after_response or not self._worker.allows_keepalive:
                response.force_close()
            body = self._worker.wsgi(environ, response.start_response)
            try:
                for part in body:
                    response.write(part)
                    while send_buffer.unsent:
                        yield
                response.close()
                while send_buffer.unsent:
                    yield
            except StreamDetached as stream:
                stream.on_end = end_logger(self._worker.log, response, request, environ, started)
                is_detached = True
                raise
            finally:
                if not is_detached:
                    took = timedelta(seconds=time.monotonic() - started)
                    self._worker.log.access(response, request, environ, took)
                if hasattr(body, "close"):
                    body.close()
            return not response.should_close()
        finally:
            try:
                self._worker.cfg.post_request(self._worker, request, environ, response)
            except Exception:
                self._worker.log.exception("The post_request hook failed.")

    def _request(self, connection: ClientConnection, reader: RequestReader, is_streamed: bool) -> Any:
        """Return the request with its body, either in memory or to be read from the socket."""
        conn = connection.conn
        if not is_streamed:
            reader.request.body = reader.body()
            reader.request._expected_100_continue = False  # the main loop has sent it
            return reader.request
        set_socket_timeouts(conn.sock)
        conn.sock.settimeout(STALL_SECONDS if self._is_tls else None)
        parser = RequestParser(self._worker.cfg, conn.sock, conn.client)
        parser.unreader.unread(reader.all_received())
        request = next(parser)
        request.force_close()
        return request

    def _response_and_environ(
        self, connection: ClientConnection, reader: RequestReader, request: Any
    ) -> tuple[Any, dict[str, Any]]:
        conn = connection.conn
        create: Any = wsgi.create
        request.admitted = connection.client.connection
        response, environ = create(request, connection.send_buffer, conn.client, conn.server, self._worker.cfg)
        environ["wsgi.multithread"] = True
        if self._is_tls:
            environ["wsgi.url_scheme"] = "https"
        environ[REQUEST_STARTED] = connection.started
        if connection.client.certificate is not None:
            environ[CLIENT_CERTIFICATE] = connection.client.certificate
        if reader.decision is not None:
            environ[ADMISSION] = reader.decision
        if request is reader.request:
            del environ["gunicorn.socket"]  # only the main loop uses it
            environ[RECEIVED_BYTES] = reader.body_size
            if reader.body_error is not None:
                environ[BODY_ERROR] = reader.body_error
        else:
            environ["gunicorn.socket"] = conn.sock
        if self._can_detach:
            environ[DETACH_STREAM] = partial(detach_stream, request.version == (1, 1))
        return response, environ


def with_request_details(app: Any) -> Any:
    """Return the application with the connection in its environ, and with the headers one by one.

    WSGI joins repeated headers with commas, and has no way to close the connection after the response.
    """

    def wrapped(environ: dict[str, Any], start_response: Any) -> Any:
        response: Any = getattr(start_response, "__self__", None)  # gunicorn's, which has the request
        if (request := getattr(response, "req", None)) is None:
            return app(environ, start_response)
        environ[HEADER_PAIRS] = request.headers
        environ[CONNECTION] = admitted = getattr(request, "admitted", None)  # None in HTTP/2
        body = app(environ, start_response)
        if admitted is not None and admitted.is_refused:
            response.force_close()
        return body

    return wrapped


def set_socket_timeouts(client: socket.socket) -> None:
    """Limit each wait for the client in a thread: a longer read or write raises an `OSError`."""
    seconds = struct.pack("@ll", STALL_SECONDS, 0)
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)

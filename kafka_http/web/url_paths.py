"""The path of a request, segment by segment: names may contain slashes, and empty segments do not count.

WSGI decodes a path as a whole, so `a%2Fb` and `a/b` are one to it. Where the server hands over the target as it was
sent (`RAW_URI`, as gunicorn does), each segment is decoded by itself.

In PATH_INFO a segment then has `%2F` for a slash and `%25` for a percent sign, and nothing else encoded:
`SegmentConverter` reverses that, so that views get names.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from flask import Blueprint, Request, Response
from werkzeug.routing import UnicodeConverter

from kafka_http.errors import InvalidRequest, KafkaHttpError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SENT_PATH = "kafka_http.sent_path"
"""In the environ: the path with its empty segments, where it has any."""
_SLASHES = re.compile("//+")
ABSOLUTE = re.compile(r"\A[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)
"""The start of a target that is a whole URL; its group is the authority."""


class NormalizedPaths:
    """WSGI middleware that prepares PATH_INFO for the URL map."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if "%" in path or "%" in environ.get("RAW_URI", ""):
            path = _escaped(path, environ)
        if "//" in path or (path.endswith("/") and path != "/"):
            environ[_SENT_PATH] = path
            path = _SLASHES.sub("/", path).rstrip("/") or "/"
        environ["PATH_INFO"] = path
        return self._app(environ, start_response)


class SegmentConverter(UnicodeConverter):
    """Decodes a segment of `NormalizedPaths`."""

    def to_python(self, value: str) -> str:
        return value.replace("%2F", "/").replace("%25", "%")


class EmptySegment(KafkaHttpError):
    """The path of a write has an empty segment: perhaps a shell's variable was empty, and it means something else."""

    code = 404

    def __init__(self, sent: str, path: str) -> None:
        super().__init__(
            f"There is nothing at {sent[:200]}: it has an empty segment. A request that writes needs the exact path, "
            f"such as {path[:200]}. Nothing was done."
        )


def check_target(request: Request) -> None:
    """Check that path and query are UTF-8, and that no empty segment changes what a write means.

    Raises `InvalidRequest`, `EmptySegment`.
    """
    path = request.environ["PATH_INFO"]
    if not path.isascii() and not _is_utf8(path.encode("latin-1")):
        raise InvalidRequest("The path is not UTF-8. Percent-encode names as UTF-8.", field="path")
    _check_query(request.query_string)
    sent = request.environ.get(_SENT_PATH)
    if sent is not None and _is_unsafe(request, sent):
        raise EmptySegment(sent.encode("latin-1").decode(), request.path)


def _check_query(query: bytes) -> None:
    if b"%" not in query or _is_utf8(unquote_to_bytes(query)):
        return
    for parameter in query.split(b"&"):
        name, value = (unquote_to_bytes(each) for each in parameter.partition(b"=")[::2])
        if not _is_utf8(name) or not _is_utf8(value):
            field = name.decode(errors="replace")[:100]
            instead = "Send the key's bytes in base64 in the header Kafka-Key-Base64." if field == "key" else ""
            raise InvalidRequest(f"The query's {field} is not UTF-8. {instead}".rstrip(), field=field)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_unsafe(request: Request, sent: str) -> bool:
    """Whether a path with empty segments may be meant for something else than the path without them."""
    if request.endpoint == "messages.publish":  # a PUT of a position, without consumer and offset, would publish
        return sent.endswith("//")
    is_v2 = request.blueprint == "v2_consumers"
    if request.method != "DELETE" and request.endpoint != "v2_consumers.delete_by_post":
        return False
    # Nothing at the ends of a v2 path is a variable, and clients have base addresses that end in a slash.
    return not is_v2 or "//" in sent.lstrip("/").removesuffix("/")


def _escaped(path: str, environ: "WSGIEnvironment") -> str:
    """PATH_INFO with `%2F` and `%25` for what is no separator in it."""
    sent = re.split("[?#]", ABSOLUTE.sub("", environ.get("RAW_URI", ""), count=1), maxsplit=1)[0]
    script_name = environ.get("werkzeug.proxy_fix.orig", environ).get("SCRIPT_NAME") or ""
    for raw in (sent, sent.removeprefix(script_name)):
        if _decoded(raw) == path:
            return "/".join(_decoded(each).replace("%", "%25").replace("/", "%2F") for each in raw.split("/"))
    return path.replace("%", "%25")  # this server does not hand over the target as it was sent


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode("latin-1")


def add_routes(blueprint: Blueprint, routes: Mapping[str, Mapping[str, Callable[..., Response]]]) -> None:
    """Add views by URL rule and method."""
    for rule, methods in routes.items():
        for method, view in methods.items():
            blueprint.add_url_rule(rule, view_func=view, methods=[method])

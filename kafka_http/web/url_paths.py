"""URL paths: names in a path may contain slashes, and empty segments are ignored. Also the routes of a blueprint.

WSGI decodes a path as a whole, so it does not distinguish `a%2Fb` and `a/b`. If the server passes on the request target
as it was sent (`RAW_URI`, as gunicorn does), each segment is decoded separately.

In PATH_INFO, a segment then has `%2F` for a slash and `%25` for a percent sign, and nothing else is encoded.
`SegmentConverter` decodes these, so that views get names.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from flask import Blueprint, Request, Response
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.routing import UnicodeConverter

from kafka_http.errors import InvalidRequest, KafkaHttpError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SENT_PATH = "kafka_http.sent_path"
"""Environ key: the path with its empty segments, if it has any."""
_SLASHES = re.compile("//+")
ABSOLUTE = re.compile(r"\A[a-z][a-z0-9+.-]*://([^/?#]*)", re.IGNORECASE)
"""The start of a request target that is a whole URL. Its group is the authority."""

Routes = Mapping[str, Mapping[str, Callable[..., Response]]]
"""Views by rule and method."""


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


def new_blueprint(
    name: str, routes: Routes, *, prefix: str | None = None, without_head: Collection[str] = ()
) -> Blueprint:
    """Return a blueprint with these routes. `without_head` names the views that do not respond to HEAD.

    A HEAD of a read would read all messages that its GET returns, and discard them.
    """
    blueprint = Blueprint(name, __name__, url_prefix=prefix)
    for rule, views in routes.items():
        for method, view in views.items():
            blueprint.add_url_rule(rule, view_func=view, methods=[method])

    def remove_head(state: BlueprintSetupState) -> None:
        for view_name in without_head:
            for rule in state.app.url_map.iter_rules(f"{name}.{view_name}"):
                (rule.methods or set()).discard("HEAD")

    blueprint.record_once(remove_head)
    return blueprint


class EmptySegment(KafkaHttpError):
    """The path of a write has an empty segment. A shell variable may have been empty, so the meaning is unclear."""

    code = 404

    def __init__(self, sent: str, path: str) -> None:
        super().__init__(
            f"There is nothing at {sent[:200]}: the path has an empty segment. A request that writes needs the exact "
            f"path, such as {path[:200]}. Nothing was done."
        )


def check_target(request: Request) -> None:
    """Check that path and query are UTF-8, and that no empty segment changes what a write means.

    Raises `InvalidRequest`, `EmptySegment`.
    """
    path = request.environ["PATH_INFO"]
    if not path.isascii() and not _is_utf8(path.encode("latin-1")):
        raise InvalidRequest("Path is not UTF-8. Percent-encode names as UTF-8.", field="path")
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
            instead = "Send the key in base64 in the header Kafka-Key-Base64." if field == "key" else ""
            raise InvalidRequest(f"Query parameter {field} is not UTF-8. {instead}".rstrip(), field=field)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_unsafe(request: Request, sent: str) -> bool:
    """Whether a path with empty segments may mean something else than the path without them."""
    if request.endpoint == "messages.publish":  # a PUT of a position would publish if consumer and offset were empty
        return sent.endswith("//")
    if request.blueprint == "queue" or (request.endpoint == "messages.seek" and sent.rstrip("/").endswith("/queue")):
        return request.method not in {"GET", "HEAD"}  # the lease may be the empty part
    is_v2 = request.blueprint == "v2_consumers"
    if request.blueprint == "topics":  # the name of the topic may be the empty part
        return True
    if request.method != "DELETE" and request.endpoint != "v2_consumers.delete_by_post":
        return False
    # The ends of a v2 path are fixed texts, and some clients use a base URL that ends with a slash.
    return not is_v2 or "//" in sent.lstrip("/").removesuffix("/")


def _escaped(path: str, environ: "WSGIEnvironment") -> str:
    """Return PATH_INFO with `%2F` and `%25` for slashes and percent signs within segments."""
    sent = re.split("[?#]", ABSOLUTE.sub("", environ.get("RAW_URI", ""), count=1), maxsplit=1)[0]
    script_name = environ.get("werkzeug.proxy_fix.orig", environ).get("SCRIPT_NAME") or ""
    for raw in (sent, sent.removeprefix(script_name)):
        if _decoded(raw) == path:
            return "/".join(_decoded(each).replace("%", "%25").replace("/", "%2F") for each in raw.split("/"))
    return path.replace("%", "%25")  # the server does not pass on the request target


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode("latin-1")

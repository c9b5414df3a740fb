"""Cross-origin resource sharing (Fetch standard, section 3.3): which pages of other origins may read the responses.

Preflight requests are answered here, before authentication: browsers send them without credentials.
"""

import re
from collections.abc import Mapping

from flask import Request, Response
from werkzeug.datastructures import Headers

from kafka_http.errors import CrossSiteRequest
from kafka_http.security.check_point import CheckPoint
from kafka_http.security.origins import ANY, Origins
from kafka_http.security.rate_limits import NO_HEADERS

EXPOSED = "Kafka-Next, Kafka-Ack, Kafka-Lease, Link, Location, Retry-After, X-Request-Id, Idempotency-Replayed"
"""Response headers that the scripts of a page may read, in addition to those that they always may."""

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_READING = ("GET", "HEAD")
_CREDENTIALS = frozenset(("authorization", "x-api-key", "cookie"))
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_MAX_REQUESTED = 100
_VARY = {"Vary": "Origin"}
_PREFLIGHT_VARY = (
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
)


class CrossOriginSharing:
    """Adds the headers that let pages of the origins in `cors_origins` call this server. Any thread may call."""

    def __init__(self, check_point: CheckPoint) -> None:
        """`check_point` has the origins, which a reload replaces."""
        self._check_point = check_point

    def answer_preflight(self, request: Request) -> Response | None:
        """Return the response to a preflight request, None for all other requests. Raises `CrossSiteRequest`."""
        method, origin = request.headers.get("Access-Control-Request-Method"), request.headers.get("Origin")
        if request.method != "OPTIONS" or method is None or origin is None:
            return None
        headers = _preflight_headers(self._check_point.origins, origin, method, request.headers)
        if headers is None:
            raise CrossSiteRequest(
                f"Pages of {origin[:100]} may not send {method[:20]} requests here. The setting cors_origins lists "
                "the origins that may."
            )
        return Response(status=204, headers=headers)

    def headers(self, origin: str | None) -> Mapping[str, str]:
        """Return the headers of the response to a request with this `Origin` header."""
        origins = self._check_point.origins
        if not origins.is_on:
            return NO_HEADERS
        if origin is not None and origin in origins:
            return _allowing(origins, origin)
        return _allowing(origins, ANY) if origin is not None and origins.allows_reading else _VARY

    def finish(self, request: Request, response: Response) -> Response:
        """Add the headers to a response of a view, or of an error."""
        for name, value in self.headers(request.headers.get("Origin")).items():
            if name == "Vary":
                response.vary.add(value)
            else:
                response.headers[name] = value
        return response


def _allowing(origins: Origins, allowed: str) -> Mapping[str, str]:
    headers = {"Access-Control-Allow-Origin": allowed, "Access-Control-Expose-Headers": EXPOSED, **_VARY}
    if origins.credentials and allowed != ANY:
        headers["Access-Control-Allow-Credentials"] = "true"
    return headers


def _preflight_headers(origins: Origins, origin: str, method: str, requested: Headers) -> Mapping[str, str] | None:
    """Return the headers of the response to a preflight request, None if the request is not allowed.

    The origins themselves are added by `CrossOriginSharing.finish`.
    """
    is_listed = origin in origins
    if not is_listed and not (origins.allows_reading and method in _READING):
        return None
    names = _requested_names(requested.get("Access-Control-Request-Headers", ""))
    if not is_listed:
        names = [each for each in names if each.lower() not in _CREDENTIALS]
    headers = {
        "Access-Control-Allow-Methods": _METHODS if is_listed else ", ".join(_READING),
        "Access-Control-Max-Age": str(origins.max_age),
        "Vary": _PREFLIGHT_VARY,
    }
    if names:  # a record's headers are Kafka-Header-NAME, so all names are allowed
        headers["Access-Control-Allow-Headers"] = ", ".join(names)
    # A page on a public site asks to reach a server on a private network (WICG, Private Network Access)
    if is_listed and requested.get("Access-Control-Request-Private-Network") == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return headers


def _requested_names(text: str) -> list[str]:
    names = [each.strip() for each in text.split(",")]
    return [each for each in names[:_MAX_REQUESTED] if _TOKEN.fullmatch(each)]

"""Keys of the WSGI environ that our server sets and our views read. Other servers set none of them.

Also the query parameter that this server removes before anything reads or logs the query.
"""

from urllib.parse import unquote_plus

HEADER_PAIRS = "kafka_http.header_pairs"
"""The request's headers as a list of (name, value), in upper case. WSGI joins repeated headers into one value."""

RECEIVED_BYTES = "kafka_http.received_bytes"
"""Size of a body that the server has received and that already counts toward `max_in_flight`."""

BODY_ERROR = "kafka_http.body_error"
"""The exception to raise instead of reading the body, which the server did not receive in full."""

REQUEST_STARTED = "kafka_http.request_started"
"""When the first byte of the request arrived, on the monotonic clock."""

DETACH_STREAM = "kafka_http.detach_stream"
"""A function that takes a `kafka_http.server.stream_sender.StreamSource` after the first part of the response is
written. It does not return: the server sends the rest without a thread."""

CLIENT_CERTIFICATE = "kafka_http.client_certificate"
"""The verified certificate of the client, in the form of `ssl.SSLSocket.getpeercert()`. Absent without one."""

ADMISSION = "kafka_http.admission"
"""What `RequestPolicy.admit` has returned for this request before its body was received."""

CONNECTION = "kafka_http.connection"
"""What `RequestPolicy.admit_connection` has returned for the connection of this request."""

PRINCIPAL = "kafka_http.principal"
"""The name of the principal, for the access log. The views set it; absent without a principal."""

REQUEST_FACTS = "kafka_http.request_facts"
"""The `RequestFacts` of the request, for the access log. The views set it."""

ACCESS_KEY = "access_key"
"""Query parameter with an API key, for `navigator.sendBeacon`, which cannot send headers."""


def split_access_key(query: str) -> tuple[str, str | None]:
    """Return a query without `access_key`, and the key, if there is one.

    >>> split_access_key("key=a&access_key=kh_secret")
    ('key=a', 'kh_secret')
    """
    if "access" not in query and "%" not in query:
        return query, None
    kept, key = [], None
    for parameter in query.split("&"):
        name, _, value = parameter.partition("=")
        if unquote_plus(name) == ACCESS_KEY:
            key = unquote_plus(value)
        else:
            kept.append(parameter)
    return "&".join(kept), key


def without_access_key(target: str) -> str:
    """Return a request target without `access_key` in its query."""
    path, mark, rest = target.partition("?")
    query, hash_mark, fragment = rest.partition("#")
    kept, key = split_access_key(query)
    return target if key is None else f"{path}{mark if kept else ''}{kept}{hash_mark}{fragment}"

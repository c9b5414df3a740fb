"""Content codings (RFC 9110, section 8.4): decoding of request bodies, compression of responses."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from flask import Request, Response
from werkzeug.exceptions import RequestEntityTooLarge

from kafka_http.errors import InvalidRequest, UnsupportedEncoding
from kafka_http.web.negotiation import JSON

try:
    import cramjam
except ImportError:  # comes with aiokafka[zstd]
    cramjam = None  # type: ignore[assignment]

CODINGS = ("gzip", "deflate", "zstd") if cramjam is not None else ("gzip", "deflate")
MIN_BYTES = 1024
"""Smaller responses are not compressed."""
_MAX_CODINGS = 2
_MAX_MEMBERS = 10_000
"""Members of one gzip body. An empty member has 20 bytes and takes some microseconds."""
_PIECE = 1 << 16
_MIN_BUFFER = 1 << 20
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""The formats as values of zlib's `wbits`."""
_IGNORED = {"", "identity"}
_ALIASES = {"x-gzip": "gzip"}
_COMPRESSIBLE = frozenset((JSON, "text/html", "text/css", "text/javascript"))
_QUALITY = re.compile(r"\s*q\s*=\s*([01](?:\.\d*)?|\.\d+)\s*", re.IGNORECASE)

Reserve = Callable[[int], None]
"""Reserves memory: so many bytes, or fewer if negative. May raise."""


def content_codings(request: Request, supported: Sequence[str] = CODINGS) -> Sequence[str]:
    """Return the codings of the body in the order in which they were applied. Raises `UnsupportedEncoding`."""
    header = request.headers.get("Content-Encoding", "")
    names = [each.strip().lower() for each in header.split(",")]
    codings = [_ALIASES.get(each, each) for each in names if each not in _IGNORED]
    for each in codings:
        if each not in supported:
            raise UnsupportedEncoding(f"Content-Encoding {each[:50]!r} is not supported.", supported)
    if len(codings) > _MAX_CODINGS:
        raise UnsupportedEncoding(f"Content-Encoding has more than {_MAX_CODINGS} codings.", CODINGS)
    return codings


def decode_body(body: bytes, codings: Sequence[str], limit: int, reserve: Reserve) -> bytes:
    """Decode a body.

    `reserve` has reserved the encoded bytes; afterwards it has reserved the decoded bytes instead. Raises
    `InvalidRequest`, and `RequestEntityTooLarge` as soon as there are more than `limit` bytes.
    """
    for coding in reversed(codings):
        encoded, body = body, _DECODERS[coding](body, limit, reserve)
        reserve(-len(encoded))
    return body


def _gunzip(body: bytes, limit: int, reserve: Reserve) -> bytes:
    return _collect("gzip", _inflated(body, _GZIP), limit, reserve)


def _inflate(body: bytes, limit: int, reserve: Reserve) -> bytes:
    """Decode `deflate`, which is zlib's format. Many clients omit zlib's header."""
    is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0  # RFC 1950
    return _collect("deflate", _inflated(body, _ZLIB if is_zlib else _RAW), limit, reserve)


def _collect(coding: str, pieces: Iterator[bytes], limit: int, reserve: Reserve) -> bytes:
    decoded: list[bytes] = []
    left = limit
    try:
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise RequestEntityTooLarge
            reserve(len(piece))
            decoded.append(piece)
    except (zlib.error, ValueError) as error:
        raise _malformed(coding, error) from None
    return b"".join(decoded)


def _inflated(body: bytes, wbits: int) -> Iterator[bytes]:
    """Yield the decoded data. A gzip body may have several members. Raises `zlib.error`, `ValueError`."""
    view, end = memoryview(body), 0
    for _ in range(_MAX_MEMBERS):
        inflater = zlib.decompressobj(wbits)
        while not inflater.eof:
            data: bytes | memoryview = inflater.unconsumed_tail
            if not data:
                data = view[end : end + _PIECE]
                end += len(data)
            piece = inflater.decompress(data, _PIECE)
            if not piece and not data and not inflater.eof:
                raise ValueError("it is incomplete")
            yield piece
        end -= len(inflater.unused_data)
        if end == len(body):
            return
        if wbits != _GZIP:
            raise ValueError("there is data after its end")
    raise ValueError(f"it has more than {_MAX_MEMBERS} members")


def _unzstd(body: bytes, limit: int, reserve: Reserve) -> bytes:
    """Decode zstd. The library decodes into a buffer of a fixed size, so this tries larger buffers."""
    buffer_size = min(limit, max(_MIN_BUFFER, 4 * len(body)))
    while True:
        reserve(buffer_size)
        buffer = bytearray(buffer_size)
        try:
            size = cramjam.zstd.decompress_into(body, buffer)
        except cramjam.DecompressionError as error:
            if "write whole buffer" not in str(error):
                raise _malformed("zstd", error) from None
            if buffer_size == limit:
                raise RequestEntityTooLarge from None
            reserve(-buffer_size)
            buffer_size = min(limit, 4 * buffer_size)
        else:
            reserve(size - buffer_size)
            return bytes(memoryview(buffer)[:size])


def _malformed(coding: str, error: Exception) -> InvalidRequest:
    return InvalidRequest(
        f"Body is not valid {coding} (its Content-Encoding): {error}. Nothing was written.",
        field="Content-Encoding",
    )


_DECODERS: Mapping[str, Callable[[bytes, int, Reserve], bytes]] = {
    "gzip": _gunzip,
    "deflate": _inflate,
    "zstd": _unzstd,
}


def compress_response(request: Request, response: Response) -> Response:
    """Compress the response to a GET if it is JSON or a file of the console, and the client accepts that.

    A response whose body is an iterator must be compressed by its view, with `compress`.
    """
    if request.method not in {"GET", "HEAD"} or not _is_compressible(response.mimetype):
        return response
    response.vary.add("Accept-Encoding")
    if response.is_sequence and "Content-Encoding" not in response.headers:
        data, headers = compress(request, response.get_data())
        if headers:
            response.set_data(data)
            response.headers.update(headers)
    return response


def compress(request: Request, body: bytes) -> tuple[bytes, Mapping[str, str]]:
    """Return the body in the coding that the client prefers, and the headers for it."""
    wants_gzip, takes_plain = _accepted_codings(request.headers.get("Accept-Encoding", ""))
    if not wants_gzip or not body or (len(body) < MIN_BYTES and takes_plain):
        return body, {}
    return gzip.compress(body, 1, mtime=0), {"Content-Encoding": "gzip"}


def _is_compressible(media_type: str | None) -> bool:
    return media_type is not None and (media_type in _COMPRESSIBLE or media_type.startswith("application/vnd.kafka"))


@lru_cache(128)
def _accepted_codings(header: str) -> tuple[bool, bool]:
    """Return whether a client prefers gzip, and whether it accepts no coding, by its Accept-Encoding header."""
    qualities: dict[str, float] = {}
    for each in header.lower().split(","):
        name, _, parameter = each.partition(";")
        quality = _QUALITY.fullmatch(parameter)
        if quality is not None or not parameter:
            qualities[_ALIASES.get(name.strip(), name.strip())] = float(quality[1]) if quality else 1.0
    others = qualities.get("*")
    zipped = qualities.get("gzip", others or 0.0)
    plain = qualities.get("identity", 0.0)
    takes_plain = plain > 0 if "identity" in qualities else others != 0
    return zipped > 0 and zipped >= plain, takes_plain

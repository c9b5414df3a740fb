"""Content codings (RFC 9110, 8.4): request bodies that come compressed, answers that go out compressed."""

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
"""Smaller answers are not worth the effort."""
_MAX_CODINGS = 2
_MAX_MEMBERS = 10_000
"""Of one gzip body: a member takes 20 bytes, and some microseconds though there is nothing in it."""
_PIECE = 1 << 16
_LEAST_ROOM = 1 << 20
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""What zlib calls them (`wbits`)."""
_IGNORED = {"", "identity"}
_ALIASES = {"x-gzip": "gzip"}
_COMPRESSIBLE = frozenset((JSON, "text/html", "text/css", "text/javascript"))
_QUALITY = re.compile(r"\s*q\s*=\s*([01](?:\.\d*)?|\.\d+)\s*", re.IGNORECASE)

Hold = Callable[[int], None]
"""Counts so many bytes more that are in memory, or less. May raise."""


def codings_of(request: Request, supported: Sequence[str] = CODINGS) -> Sequence[str]:
    """How the body is encoded, the first coding first; nothing where it is as it is. Raises `UnsupportedEncoding`."""
    header = request.headers.get("Content-Encoding", "")
    names = [each.strip().lower() for each in header.split(",")]
    codings = [_ALIASES.get(each, each) for each in names if each not in _IGNORED]
    for each in codings:
        if each not in supported:
            raise UnsupportedEncoding(f"Content-Encoding {each[:50]!r} is not supported here.", supported)
    if len(codings) > _MAX_CODINGS:
        raise UnsupportedEncoding(f"Content-Encoding has more than {_MAX_CODINGS} codings.", CODINGS)
    return codings


def decode_body(body: bytes, codings: Sequence[str], limit: int, hold: Hold) -> bytes:
    """Undo the codings, the last first. `hold` counts the encoded bytes already, and afterwards the decoded ones alone.

    Raises `InvalidRequest`, `RequestEntityTooLarge` as soon as there are more than `limit` bytes.
    """
    for coding in reversed(codings):
        encoded, body = body, _DECODERS[coding](body, limit, hold)
        hold(-len(encoded))
    return body


def _gunzip(body: bytes, limit: int, hold: Hold) -> bytes:
    return _collect("gzip", _inflated(body, _GZIP), limit, hold)


def _inflate(body: bytes, limit: int, hold: Hold) -> bytes:
    """`deflate` is zlib's format; many send it without zlib's header."""
    is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0  # RFC 1950
    return _collect("deflate", _inflated(body, _ZLIB if is_zlib else _RAW), limit, hold)


def _collect(coding: str, pieces: Iterator[bytes], limit: int, hold: Hold) -> bytes:
    decoded: list[bytes] = []
    left = limit
    try:
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                raise RequestEntityTooLarge
            hold(len(piece))
            decoded.append(piece)
    except (zlib.error, ValueError) as error:
        raise _malformed(coding, error) from None
    return b"".join(decoded)


def _inflated(body: bytes, wbits: int) -> Iterator[bytes]:
    """The data piece by piece. A gzip body may have several members. Raises `zlib.error`, `ValueError`."""
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
                raise ValueError("it breaks off")
            yield piece
        end -= len(inflater.unused_data)
        if end == len(body):
            return
        if wbits != _GZIP:
            raise ValueError("something follows behind its end")
    raise ValueError(f"it has more than {_MAX_MEMBERS} members")


def _unzstd(body: bytes, limit: int, hold: Hold) -> bytes:
    """The library decodes in one go into a buffer, whose size is found by trying."""
    room = min(limit, max(_LEAST_ROOM, 4 * len(body)))
    while True:
        hold(room)
        buffer = bytearray(room)
        try:
            size = cramjam.zstd.decompress_into(body, buffer)
        except cramjam.DecompressionError as error:
            if "write whole buffer" not in str(error):
                raise _malformed("zstd", error) from None
            if room == limit:
                raise RequestEntityTooLarge from None
            hold(-room)
            room = min(limit, 4 * room)
        else:
            hold(size - room)
            return bytes(memoryview(buffer)[:size])


def _malformed(coding: str, error: Exception) -> InvalidRequest:
    return InvalidRequest(
        f"The body is not {coding}, which its Content-Encoding says: {error}. Nothing was written.",
        field="Content-Encoding",
    )


_DECODERS: Mapping[str, Callable[[bytes, int, Hold], bytes]] = {"gzip": _gunzip, "deflate": _inflate, "zstd": _unzstd}


def compress_answer(request: Request, response: Response) -> Response:
    """Compress the answer of a GET where it is JSON or a file of the console, and its client wants that.

    An answer whose body is an iterator has to be compressed where it is made, with `compress`.
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
    """The body as its client wants it, and the header that says so."""
    wants_gzip, takes_plain = _wanted(request.headers.get("Accept-Encoding", ""))
    if not wants_gzip or not body or (len(body) < MIN_BYTES and takes_plain):
        return body, {}
    return gzip.compress(body, 1, mtime=0), {"Content-Encoding": "gzip"}


def _is_compressible(media_type: str | None) -> bool:
    return media_type is not None and (media_type in _COMPRESSIBLE or media_type.startswith("application/vnd.kafka"))


@lru_cache(128)
def _wanted(header: str) -> tuple[bool, bool]:
    """By an Accept-Encoding header: whether the client wants gzip, and whether it takes an answer as it is."""
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

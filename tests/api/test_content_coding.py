"""Compressed request bodies and responses."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import cramjam
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.api.conftest import ClientFactory
from tests.support.fake_broker import FakeBroker
from tests.support.polling import wait_for

JSON = "application/json"
JSON_V2 = "application/vnd.kafka.json.v2+json"
NDJSON = "application/x-ndjson"
BODY = json.dumps([{"n": each} for each in range(1000)]).encode()
MIB = 1 << 20


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data))


CODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-Gzip", gzip.compress),
    "members": ("gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(b"") + gzip.compress(data[7:])),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "zstd": ("zstd", zstd),
    "frames": ("zstd", lambda data: zstd(data[:7]) + zstd(data[7:])),
    "two": ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    "identity": ("identity", bytes),
}


@pytest.fixture(params=CODERS.values(), ids=list(CODERS))
def coder(request: pytest.FixtureRequest) -> tuple[str, Callable[[bytes], bytes]]:
    found: tuple[str, Callable[[bytes], bytes]] = request.param
    return found


def send(client: FlaskClient, coding: str, body: bytes, *, chunked: bool = False) -> TestResponse:
    headers = {"Content-Encoding": coding}
    if not chunked:
        return client.post("/messages/t", data=body, content_type=JSON, headers=headers)
    return client.post(
        "/messages/t",
        input_stream=BytesIO(body),
        content_type=JSON,
        headers=headers | {"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_publish_of_a_compressed_body_is_written(
    client: FlaskClient, broker: FakeBroker, coder: tuple[str, Callable[[bytes], bytes]], chunked: bool
) -> None:
    coding, pack = coder
    response = send(client, coding, pack(BODY), chunked=chunked)
    assert response.status_code == 200, response.text
    assert [json.loads(each.value or b"")["n"] for each in broker.records("t")] == list(range(1000))


def test_compressed_body_of_a_put_is_stored_decompressed(client: FlaskClient, broker: FakeBroker) -> None:
    client.put("/messages/t", data=gzip.compress(b"\x00abc"), headers={"Content-Encoding": "gzip"})
    assert [each.value for each in broker.records("t")] == [b"\x00abc"]


def test_v2_calls_accept_compressed_bodies(client: FlaskClient, broker: FakeBroker) -> None:
    headers = {"Content-Encoding": "gzip"}
    body = gzip.compress(b'{"records": [{"value": 1}]}')
    assert client.post("/topics/t", data=body, content_type=JSON_V2, headers=headers).status_code == 200
    assert len(broker.records("t")) == 1
    body = gzip.compress(b'{"name": "i"}')
    response = client.post("/consumers/g", data=body, content_type="application/vnd.kafka.v2+json", headers=headers)
    assert response.json["instance_id"] == "i"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"more",
        lambda _: b"plain",
        lambda _: b"",
    ],
    ids=["cut", "halved", "more", "plain", "empty"],
)
def test_malformed_compressed_body_returns_400(
    client: FlaskClient,
    broker: FakeBroker,
    coder: tuple[str, Callable[[bytes], bytes]],
    spoil: Callable[[bytes], bytes],
) -> None:
    coding, pack = coder
    response = send(client, coding, spoil(pack(BODY)))
    assert response.status_code == 400, response.text
    assert "traceback" not in response.text.lower()
    assert broker.records("t") == []


def test_compressed_body_with_wrong_checksum_returns_400(client: FlaskClient, broker: FakeBroker) -> None:
    packed = bytearray(gzip.compress(BODY))
    packed[-6] ^= 1
    assert send(client, "gzip", bytes(packed)).status_code == 400
    assert broker.records("t") == []


@pytest.mark.parametrize("coding", ["br", "gzip, br", "compress", "gzip, gzip, gzip", "gzip;q=1"])
def test_unknown_coding_returns_415_with_supported_codings(
    client: FlaskClient, broker: FakeBroker, coding: str
) -> None:
    response = send(client, coding, gzip.compress(BODY))
    assert response.status_code == 415
    assert response.headers["Accept-Encoding"] == "gzip, deflate, zstd"
    assert response.json["error"]["encodings"] == ["gzip", "deflate", "zstd"]
    response = client.post("/topics/t", data=b"x", content_type=JSON_V2, headers={"Content-Encoding": coding})
    assert (response.status_code, response.json["error_code"]) == (415, 415)
    assert response.headers["Accept-Encoding"] == "gzip, deflate, zstd"
    assert broker.records("t") == []


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_compressed_streaming_upload_returns_415(client: FlaskClient, broker: FakeBroker, coding: str) -> None:
    headers = {"Content-Encoding": coding, "Accept": NDJSON}
    response = client.post("/messages/t", data=gzip.compress(b"1\n"), content_type=NDJSON, headers=headers)
    assert response.status_code == 415
    assert response.headers["Accept-Encoding"] == "identity"
    assert broker.records("t") == []


BOMBS = {
    "gzip": gzip.compress(bytes(100 * MIB)),
    "members": gzip.compress(bytes(MIB)) * 100,
    "deflate": zlib.compress(bytes(100 * MIB)),
    "deflate, gzip": gzip.compress(zlib.compress(bytes(100 * MIB))),
    "zstd": zstd(bytes(100 * MIB)),
}


@pytest.mark.parametrize("coding", list(BOMBS))
def test_decompression_stops_at_max_body_bytes(make_client: ClientFactory, broker: FakeBroker, coding: str) -> None:
    client = make_client(max_body_bytes=4 * MIB)
    body, limit = BOMBS[coding], 4 * MIB
    tracemalloc.start()
    try:
        response = send(client, "gzip" if coding == "members" else coding, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (response.status_code, response.json["error"]["limit"]) == (413, limit)
    assert peak < 3 * limit
    assert broker.records("t") == []


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_decompressed_body_of_max_body_bytes_is_accepted(
    make_client: ClientFactory, broker: FakeBroker, coding: str
) -> None:
    client = make_client(max_body_bytes=3 * MIB)
    broker.message_limit = 4 * MIB
    pack = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd}[coding]
    for size, status in ((3 * MIB, 200), (3 * MIB + 1, 413)):
        response = client.put("/messages/t", data=pack(bytes(size)), headers={"Content-Encoding": coding})
        assert response.status_code == status
    assert [len(each.value or b"") for each in broker.records("t")] == [3 * MIB]


def test_many_empty_gzip_members_return_400(client: FlaskClient, broker: FakeBroker) -> None:
    response = send(client, "gzip", gzip.compress(b"") * 20_000)
    assert response.status_code == 400
    assert "members" in response.json["error"]["message"]


def test_max_records_applies_to_the_decompressed_body(make_client: ClientFactory, broker: FakeBroker) -> None:
    response = send(make_client(max_records=999), "gzip", gzip.compress(BODY))
    assert (response.status_code, response.json["error"]["limit"]) == (413, 999)
    assert broker.records("t") == []


def test_memory_of_a_compressed_body_is_released(make_client: ClientFactory, broker: FakeBroker) -> None:
    client = make_client(max_in_flight=5000, max_body_bytes=4000)
    for coding, pack in CODERS.values():
        for body in (pack(bytes(1400)), pack(bytes(1400))[:-1], pack(bytes(5000))):
            client.put("/messages/t", data=body, headers={"Content-Encoding": coding})

    def publish(timeout: float) -> TestResponse:
        other = client.application.test_client()
        return other.put(f"/messages/t?timeout={timeout}", data=bytes(1700))

    broker.silent = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(publish, 3)
        wait_for(lambda: broker.unanswered)
        assert publish(0.1).status_code == 504  # 429 where as much as a body of above was in flight still
        assert first.result().status_code == 504


def test_repeat_with_idempotency_key_compares_decompressed_bytes(client: FlaskClient, broker: FakeBroker) -> None:
    def publish(coding: str, body: bytes) -> TestResponse:
        headers = {"Content-Encoding": coding, "Idempotency-Key": "k"}
        return client.post("/messages/t", data=body, content_type=JSON, headers=headers)

    assert publish("gzip", gzip.compress(BODY)).status_code == 200
    for coding, pack in CODERS.values():
        response = publish(coding, pack(BODY))
        assert (response.status_code, response.headers["Idempotency-Replayed"]) == (200, "true")
    assert publish("gzip", gzip.compress(BODY + b" ")).status_code == 422
    assert len(broker.records("t")) == 1000


# Answers


@pytest.fixture
def filled(make_client: ClientFactory) -> FlaskClient:
    client = make_client(console=True)
    assert client.post("/messages/t", data=BODY, content_type=JSON).status_code == 200
    assert client.post("/messages/three", data=b"[1]", content_type=JSON).status_code == 200
    return client


def get(
    client: FlaskClient, path: str, encoding: str | None = "gzip", method: str = "GET", **headers: str
) -> TestResponse:
    sent = headers if encoding is None else headers | {"Accept-Encoding": encoding}
    return client.open(path, method=method, headers=sent)


PAGE = "/messages/t/me/earliest"


def is_zipped(response: TestResponse) -> bool:
    return response.headers.get("Content-Encoding") == "gzip"


@pytest.mark.parametrize("path", [PAGE, "/console/console.css", "/console/messages.js"])
def test_large_response_is_compressed_if_the_client_accepts_gzip(filled: FlaskClient, path: str) -> None:
    plain, zipped = get(filled, path, None), get(filled, path)
    assert not plain.headers.get("Content-Encoding")
    assert is_zipped(zipped)
    assert gzip.decompress(zipped.data) == plain.data
    assert int(zipped.headers["Content-Length"]) == len(zipped.data) < len(plain.data)
    assert plain.headers["Vary"] == zipped.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["Content-Type"] == zipped.headers["Content-Type"]


def test_page_in_v2_format_is_compressed(filled: FlaskClient) -> None:
    zipped = get(filled, PAGE, Accept=JSON_V2)
    assert is_zipped(zipped)
    assert len(json.loads(gzip.decompress(zipped.data))) == 1000


def test_compressed_v2_records_count_as_delivered(filled: FlaskClient) -> None:
    v2 = "application/vnd.kafka.v2+json"
    body = json.dumps({"name": "i", "format": "json", "auto.offset.reset": "earliest"})
    assert filled.post("/consumers/g", data=body, content_type=v2).status_code == 200
    base = "/consumers/g/instances/i"
    assert filled.post(f"{base}/subscription", data='{"topics": ["t"]}', content_type=v2).status_code == 204
    seen: list[int] = []
    for _ in range(100):
        response = get(filled, f"{base}/records?timeout=500&max_bytes=5000", Accept=JSON_V2)
        data = gzip.decompress(response.data) if is_zipped(response) else response.data
        assert is_zipped(response) == (len(data) >= 1024)
        assert int(response.headers["Content-Length"]) == len(response.data)
        seen += [each["value"]["n"] for each in json.loads(data)]
        if len(seen) >= 1000:
            break
    assert seen == list(range(1000))
    assert filled.post(f"{base}/offsets").status_code == 200
    query = "?topic=t&partition=0"
    assert filled.get(f"{base}/offsets{query}").json["offsets"][0]["offset"] == 1000


def test_responses_have_vary_with_and_without_compression(filled: FlaskClient, broker: FakeBroker) -> None:
    lists = ["/messages", "/topics", "/messages/t", "/topics/t", "/tasks", "/console"]
    for path in lists:
        response = get(filled, path)
        assert response.status_code == 200
        assert (response.headers["Vary"], is_zipped(response)) == ("Accept-Encoding", False)
    for each in range(200):
        broker.create_topic(f"topic-{each}")
    assert is_zipped(get(filled, "/messages"))
    assert is_zipped(get(filled, "/topics"))


@pytest.mark.parametrize(
    ("encoding", "zipped"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("br, gzip;q=0.5", True),
        ("gzip;q=.2, deflate", True),
        ("*", True),
        ("*;q=0.1", True),
        ("gzip, identity", True),
        ("gzip;q=1.0, identity; q=0.5, *;q=0", True),
        ("deflate, br, zstd", False),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*;q=0", False),
        ("identity, gzip;q=0.5", False),
        ("gzip;q=x", False),
        (",;q=1,gzip", True),
    ],
)
def test_accept_encoding_decides_on_compression(filled: FlaskClient, encoding: str, zipped: bool) -> None:
    assert is_zipped(get(filled, PAGE, encoding)) == zipped


@pytest.mark.parametrize("encoding", ["gzip, identity;q=0", "gzip, *;q=0"])
def test_small_response_is_compressed_if_identity_is_rejected(filled: FlaskClient, encoding: str) -> None:
    response = get(filled, "/messages", encoding)
    assert is_zipped(response)
    assert json.loads(gzip.decompress(response.data))["topics"] == ["t", "three"]


def test_head_has_the_headers_of_get(filled: FlaskClient, broker: FakeBroker) -> None:
    for each in range(200):
        broker.create_topic(f"topic-{each}")
    for path in ("/messages", "/console/console.css"):
        got, head = get(filled, path), get(filled, path, method="HEAD")
        for name in ("Content-Encoding", "Content-Length", "Vary", "Content-Type"):
            assert head.headers[name] == got.headers[name]
        assert head.data == b""


def test_publish_results_raw_messages_streams_and_errors_are_not_compressed(filled: FlaskClient) -> None:
    headers = {"Accept-Encoding": "gzip"}
    published = filled.post("/messages/t", data=BODY, content_type=JSON, headers=headers)
    assert len(published.data) > 1024
    assert filled.put("/messages/t", data=bytes(5000)).status_code == 200
    octets = get(filled, "/messages/t/me/-1", Accept="application/octet-stream")
    assert len(octets.data) == 5000
    stream = get(filled, f"{PAGE}?until=end", Accept="text/event-stream")
    lines = get(filled, f"{PAGE}?until=end", Accept=NDJSON)
    error = get(filled, "/messages/nope")
    for response in (published, octets, stream, lines, error):
        assert "Content-Encoding" not in response.headers
    for response in (published, octets, stream, lines):
        assert "Vary" not in response.headers

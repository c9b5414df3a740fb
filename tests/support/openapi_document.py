"""The description of the API, `kafka_http/web/openapi.json`, for tests.

To format the file: `python -m tests.support.openapi_document`
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs

FILE = Path(__file__).parents[2] / "kafka_http" / "web" / "openapi.json"
METHODS = ("get", "put", "post", "delete", "patch")
COMMON_HEADERS = frozenset(
    (
        *("x-request-id", "cache-control", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
        *("idempotency-replayed", "preference-applied"),
    )
)
"""Headers that not every response lists that may have them. The text of the document describes them."""
OF_HTTP = frozenset(
    (
        *("content-type", "content-length", "content-encoding", "transfer-encoding", "connection", "date", "server"),
        *("vary", "allow"),
    )
)
_FAMILIES = ("access-control-", "kafka-header-")
_WIDTH = 120
_ANY_FORMAT = re.compile(r"application/vnd\.kafka\.[a-z0-9_-]+\.v2\+json")


class Operation(NamedTuple):
    """A call: a method of a path."""

    method: str
    path: str
    """Such as `/messages/{topic}`."""
    fields: Mapping[str, Any]
    parameters: list[Mapping[str, Any]]
    """Those of the path, too."""

    @property
    def name(self) -> str:
        return f"{self.method.upper()} {self.path}"

    def response(self, status: int) -> Mapping[str, Any] | None:
        found = self.fields["responses"].get(str(status))
        return None if found is None else resolved(found)

    def names(self, place: str) -> set[str]:
        """The names of the parameters in `query`, `header` or `path`."""
        return {each["name"] for each in self.parameters if each["in"] == place}


@cache
def document() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(FILE.read_text())
    return loaded


def resolved(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a `$ref` refers to."""
    while "$ref" in value:
        _, _, kind, name = value["$ref"].split("/")
        value = document()["components"][kind][name]
    return value


@cache
def operations() -> list[Operation]:
    return list(_operations())


def _operations() -> Iterator[Operation]:
    for path, item in document()["paths"].items():
        for method in METHODS:
            if (fields := item.get(method)) is not None:
                parameters = [*item.get("parameters", ()), *fields.get("parameters", ())]
                yield Operation(method, path, fields, [dict(resolved(each)) for each in parameters])


def find_operation(method: str, path: str) -> Operation | None:
    """Return the operation of a request. In `path`, as in PATH_INFO, slashes in names are `%2F`. HEAD is GET."""
    named = method.lower().replace("head", "get")
    found = [each for each in operations() if each.method == named and _pattern(each.path).fullmatch(path)]
    return max(found, key=lambda each: (-each.path.count("{"), len(each.path)), default=None)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    is_file = path.startswith(("/docs/", "/console/"))
    return re.compile(re.sub(r"\{\w+\}", ".+" if is_file else "[^/]+", path), re.DOTALL)


class SchemaCheck:
    """Checks a JSON value against a schema of the document.

    `strict`: objects may have only the fields that the document names. Clients must accept other fields, too, so the
    document itself does not forbid them.
    """

    def __init__(self, schema: Mapping[str, Any], *, strict: bool) -> None:
        components = {"schemas": document()["components"]["schemas"]}
        whole = {**schema, "components": components}
        self._schema = _closed(whole) if strict else whole

    @cached_property
    def _validator(self) -> Any:
        return jsonschema_rs.Draft202012Validator(self._schema)

    def problems(self, value: Any) -> list[str]:
        errors = self._validator.iter_errors(value)
        return [f"{'.'.join(map(str, each.instance_path))}: {each.message}" for each in errors]


def _closed(value: Any) -> Any:
    if isinstance(value, list):
        return [_closed(each) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {name: _closed(each) for name, each in value.items()}
    if value.get("type") == "object" and "properties" in value:
        inner.setdefault("additionalProperties", False)
    return inner


@cache
def _response_check(method: str, path: str, status: int, media_type: str) -> SchemaCheck:
    operation = next(each for each in operations() if (each.method, each.path) == (method, path))
    response = operation.response(status)
    assert response is not None
    return SchemaCheck(response["content"][media_type].get("schema", {}), strict=True)


def response_problems(
    method: str, path: str, status: int, headers: Iterable[tuple[str, str]], body: bytes | None
) -> list[str]:
    """Return what of a response the document does not allow. `body` is None if it is not known."""
    operation = find_operation(method, path)
    if operation is None or status == 405:  # it is the response to methods that the document does not have
        return [] if status >= 400 or method == "OPTIONS" else [f"{method} {path}: {status}: no such call"]
    where = f"{operation.name}: {status}"
    if (response := operation.response(status)) is None:
        return [f"{where}: no such status: {(body or b'')[:300]!r}"]
    by_name = {name.lower(): value for name, value in headers}
    unknown = [each for each in by_name.keys() - _allowed_headers(response) if not each.startswith(_FAMILIES)]
    problems = [f"{where}: no such header: {each}" for each in unknown]
    if body and method != "HEAD" and "content-encoding" not in by_name:
        media_type = by_name.get("content-type", "").partition(";")[0]
        problems += _body_problems(where, operation, status, media_type, body)
    return problems


def _allowed_headers(response: Mapping[str, Any]) -> set[str]:
    return {each.lower() for each in response.get("headers", ())} | COMMON_HEADERS | OF_HTTP


def _body_problems(where: str, operation: Operation, status: int, media_type: str, body: bytes) -> list[str]:
    content = (operation.response(status) or {}).get("content", {})
    if media_type not in content and _ANY_FORMAT.fullmatch(media_type):  # that of a plug-in
        media_type = next((each for each in content if _ANY_FORMAT.fullmatch(each)), media_type)
    if media_type not in content:
        return [f"{where}: no such type: {media_type}: {body[:300]!r}"]
    if not media_type.endswith("json") or media_type == "application/x-ndjson":
        return []
    check = _response_check(operation.method, operation.path, status, media_type)
    return [f"{where}: {each}" for each in check.problems(json.loads(body))]


def formatted(value: Any) -> str:
    """Return a document as JSON. What fits on a line is on one line."""
    return f"{_formatted(value, 0, 0)}\n"


def _formatted(value: Any, indent: int, used: int) -> str:
    """`used` is the part of the line that is before the value and after it."""
    line = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, dict | list) or (indent > 0 and indent + used + len(line) <= _WIDTH):
        return line
    inner = indent + 2
    if isinstance(value, dict):
        names = {name: f"{json.dumps(name)}: " for name in value}
        parts = [f"{names[name]}{_formatted(each, inner, len(names[name]) + 1)}" for name, each in value.items()]
    else:
        parts = [_formatted(each, inner, 1) for each in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    lines = ",\n".join(" " * inner + part for part in parts)
    return f"{opening}\n{lines}\n{' ' * indent}{closing}"


if __name__ == "__main__":
    FILE.write_text(formatted(document()))

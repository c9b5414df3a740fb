"""Load the serializers: the entry points of the group `kafka_http.serializers`, the built-in ones included.

A serializer converts a value in JSON to the bytes that Kafka stores, and back. Its methods have the signatures of
kafka-python's serializers. The entry point is called with the settings of its name, `[serializers.NAME]`.
"""

import inspect
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from kafka_http.config import ConfigError
from kafka_http.errors import how_to_install
from kafka_http.records import Headers
from kafka_http.schemas.registry_settings import RegistrySettings

if TYPE_CHECKING:
    from kafka_http.schemas.registry import SchemaRegistry  # its HTTP library is in an extra

ENTRY_POINT_GROUP = "kafka_http.serializers"
_NAME = re.compile(r"[a-z0-9_-]{1,50}")


class Serializer(Protocol):
    """`serialize` takes what `json.loads` returns and returns bytes; `deserialize` does the reverse.

    Null is never passed: it is a null in Kafka too. Any exception rejects the record, and the client gets its text.
    Many threads call a serializer at once. Optional attributes and methods:

    * `json_text`: if true, `serialize` takes and `deserialize` returns the JSON text, as UTF-8 bytes, so that the
      client's text is kept to the last digit.
    * `verbatim`: if true, JSON texts are stored unchanged, and `serialize` is not called.
    * `for_request(role, topic, **params)`: called once for the keys and once for the values of a publish (`role`), with
      the request's parameters `schema`, `schema_id`, `subject` and `version`. Returns the serializer to use. If that
      has an attribute `schema_id`, the response shows it.
    * `needs_schema`: if true, a REST Proxy v2 publish must name a schema.
    * `immediate`: if true, the serializer never blocks, so that an event loop may call it. If it has a `for_request`,
      that takes `blocking=False` and raises `WouldBlock` instead of blocking.
    * `recognizes(data)`: returns whether stored bytes have this format, for a read with `format=auto`.
    """

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes: ...

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> Any: ...


class SerializerNotLoaded(ConfigError):
    """A serializer cannot be used. The message names it and the reason."""


class Serializers(Struct, frozen=True):
    """The available serializers by name, and for installed ones that are not available the reason."""

    loaded: Mapping[str, Serializer]
    missing: Mapping[str, str]


def load_serializers(
    settings: Mapping[str, Mapping[str, Any]], registry: RegistrySettings | None = None
) -> Serializers:
    """Create the installed serializers. Raises `SerializerNotLoaded`.

    An entry point with a parameter `registry` gets the `SchemaRegistry`, the same one for all. If no registry is
    configured, or an extra is not installed, a serializer that needs it is missing; that is not an error.
    """
    found = _installed()
    for name in settings:
        if name not in found:
            raise SerializerNotLoaded(f"[serializers.{name}] is set, but no serializer {name!r} is installed.")
    return _Loader(settings, registry or RegistrySettings()).load(found)


def _installed() -> dict[str, EntryPoint]:
    """Return the entry points by name, which is part of a media type. Raises `SerializerNotLoaded`."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if not _NAME.fullmatch(entry.name):
            raise SerializerNotLoaded(
                f"Serializer {entry.name!r} ({entry.value}) must have a name of 1 to 50 of a-z, 0-9, _ and -."
            )
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise SerializerNotLoaded(f"Two serializers are named {entry.name!r}: {other.value} and {entry.value}.")
    return found


class _Missing(Exception):
    """A serializer is not available, which is not an error."""


class _Loader:
    def __init__(self, settings: Mapping[str, Mapping[str, Any]], registry_settings: RegistrySettings) -> None:
        self._settings = settings
        self._registry_settings = registry_settings
        self._registry: SchemaRegistry | None = None

    def load(self, entries: Mapping[str, EntryPoint]) -> Serializers:
        loaded: dict[str, Serializer] = {}
        missing: dict[str, str] = {}
        for name, entry in sorted(entries.items()):
            try:
                loaded[name] = self._create(entry)
            except _Missing as reason:
                missing[name] = str(reason)
            except ConfigError:
                raise
            except Exception as error:
                reason_text = f"{type(error).__name__}: {error}"
                raise SerializerNotLoaded(
                    f"Serializer {name!r} ({entry.value}) cannot be loaded: {reason_text}"
                ) from error
        return Serializers(loaded, missing)

    def _create(self, entry: EntryPoint) -> Serializer:
        factory = _load(entry)
        arguments = {"registry": self._shared_registry(entry.name)} if _takes_registry(factory) else {}
        serializer: Serializer = factory(self._settings.get(entry.name, {}), **arguments)
        for method in ("serialize", "deserialize"):
            if not callable(getattr(serializer, method, None)):
                raise TypeError(f"{type(serializer).__name__} has no method {method}")
        return serializer

    def _shared_registry(self, name: str) -> "SchemaRegistry":
        if not self._registry_settings.url:
            raise _Missing(f"Format {name!r} needs a schema registry: set schema_registry.url.")
        if self._registry is None:
            # Here, because the import needs the extra.
            from kafka_http.schemas.registry import SchemaRegistry

            self._registry = SchemaRegistry(self._registry_settings)
        return self._registry


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if not entry.extras or (error.name or "").startswith("kafka_http"):
            raise
        extras, package = ",".join(entry.extras), entry.dist.name if entry.dist else ""
        is_built_in = package in {"", "kafka_http"}
        how = how_to_install(extras) if is_built_in else f"Run pip install '{package}[{extras}]'."
        raise _Missing(f"Format {entry.name!r} needs more packages. {how}") from None


def _takes_registry(factory: Any) -> bool:
    try:
        return "registry" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # Python cannot tell its signature
        return False

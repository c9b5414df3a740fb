"""How a value in JSON becomes the bytes that Kafka stores, and back.

A serialiser is what an entry point of the group `kafka_http.serializers` makes when it is called with the settings of
its name (`[serializers.NAME]`). It has kafka-python's signature. Ours come in by the same door as anybody's.
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
    from kafka_http.schemas.registry import SchemaRegistry  # whose HTTP library is in an extra

ENTRY_POINT_GROUP = "kafka_http.serializers"
_NAME = re.compile(r"[a-z0-9_-]{1,50}")


class Serializer(Protocol):
    """`serialize` takes what `json.loads` gives and returns bytes; `deserialize` goes the other way.

    Null never gets here: it is a null in Kafka too. Any exception refuses the record, and its text tells the client
    why. Called from many threads at once. These may be there besides:

    * `json_text`: true for one that takes and returns the JSON text instead, as UTF-8 bytes, so that what the client
      wrote is kept to the last digit.
    * `verbatim`: true for one that stores JSON texts as they are; it is not called to do so.
    * `for_request(role, topic, **params)`: called once for the keys and once for the values of a publish, `role` says
      which, with what the request says of their schema: `schema`, `schema_id`, `subject`, `version`. It returns what
      serialises them; if that has an attribute `schema_id` it is in the answer.
    * `needs_schema`: true for one that `for_request` must be told a schema of by the REST Proxy v2 API.
    * `immediate`: true for one that waits for nothing, such as an answer from elsewhere, so that an event loop may call
      it. One with a `for_request` takes `blocking=False` there, and raises `WouldBlock` where it would wait.
    """

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes: ...

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> Any: ...


class SerializerNotLoaded(ConfigError):
    """A plug-in that cannot be used; the text names it and says why."""


class Serializers(Struct, frozen=True):
    """The serialisers there are, by name, and why others of those installed are not to be had."""

    loaded: Mapping[str, Serializer]
    missing: Mapping[str, str]


def load_serializers(
    settings: Mapping[str, Mapping[str, Any]], registry: RegistrySettings | None = None
) -> Serializers:
    """Make the serialisers that are installed. Raises `SerializerNotLoaded`, naming it.

    A factory with a parameter `registry` gets the `SchemaRegistry`, one for all. Where the settings name none such a
    serialiser is missing; and so is one that needs an extra which is not installed.
    """
    found = _installed()
    for name in settings:
        if name not in found:
            raise SerializerNotLoaded(f"[serializers.{name}] is set, but there is no serialiser {name!r} installed.")
    return _Loader(settings, registry or RegistrySettings()).load(found)


def _installed() -> dict[str, EntryPoint]:
    """By name, which is part of a media type. Raises `SerializerNotLoaded`."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if not _NAME.fullmatch(entry.name):
            raise SerializerNotLoaded(
                f"serialiser {entry.name!r} ({entry.value}) cannot be used: a name has 1 to 50 of a-z, 0-9, _ and -."
            )
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise SerializerNotLoaded(f"two serialisers are called {entry.name!r}: {other.value} and {entry.value}.")
    return found


class _Missing(Exception):
    """A serialiser is not to be had, and that is no fault."""


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
                loaded[name] = self._made(entry)
            except _Missing as why:
                missing[name] = str(why)
            except ConfigError:
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise SerializerNotLoaded(f"serialiser {name!r} ({entry.value}) cannot be loaded: {what}") from error
        return Serializers(loaded, missing)

    def _made(self, entry: EntryPoint) -> Serializer:
        factory = _factory(entry)
        wanted = {"registry": self._shared_registry(entry.name)} if _takes_registry(factory) else {}
        made: Serializer = factory(self._settings.get(entry.name, {}), **wanted)
        for method in ("serialize", "deserialize"):
            if not callable(getattr(made, method, None)):
                raise TypeError(f"what it makes has no method {method}")
        return made

    def _shared_registry(self, name: str) -> "SchemaRegistry":
        if not self._registry_settings.url:
            raise _Missing(f"The format {name!r} needs a schema registry: the setting schema_registry.url names it.")
        if self._registry is None:
            from kafka_http.schemas.registry import SchemaRegistry

            self._registry = SchemaRegistry(self._registry_settings)
        return self._registry


def _factory(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if not entry.extras or (error.name or "").startswith("kafka_http"):
            raise
        extras, package = ",".join(entry.extras), entry.dist.name if entry.dist else ""
        is_ours = package in {"", "kafka_http"}
        how = how_to_install(extras) if is_ours else f"Run pip install '{package}[{extras}]'."
        raise _Missing(f"The format {entry.name!r} needs more packages. {how}") from None


def _takes_registry(factory: Any) -> bool:
    try:
        return "registry" in inspect.signature(factory).parameters
    except (TypeError, ValueError):  # it has none that Python can tell
        return False

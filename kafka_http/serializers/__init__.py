"""How a value in JSON becomes the bytes that Kafka stores, and back.

A serialiser is what an entry point of the group `kafka_http.serializers` makes when it is called with the settings of
its name (`[serializers.NAME]`). It has kafka-python's signature. Ours come in by the same door as anybody's.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol

from kafka_http.config import ConfigError
from kafka_http.records import Headers

ENTRY_POINT_GROUP = "kafka_http.serializers"


class Serializer(Protocol):
    """`serialize` takes what `json.loads` gives and returns bytes; `deserialize` goes the other way.

    One whose attribute `json_text` is true takes and returns the JSON text instead, as UTF-8 bytes, so that what the
    client wrote is kept to the last digit. One whose attribute `immediate` is true waits for nothing, such as an answer
    from elsewhere, so that an event loop may call it; one that is `verbatim` stores JSON texts as they are, and is not
    called to do so. Null never gets here: it is a null in Kafka too. Any exception refuses the record, and its text
    tells the client why. Called from many threads at once.
    """

    def serialize(self, topic: str, headers: Headers, data: Any) -> bytes: ...

    def deserialize(self, topic: str, headers: Headers, data: bytes) -> Any: ...


class SerializerNotLoaded(ConfigError):
    """A plug-in that cannot be used; the text names it and says why."""


def load_serializers(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Serializer]:
    """Make the serialisers that are installed, by name. Raises `SerializerNotLoaded`."""
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    for name in settings:
        if name not in found:
            raise SerializerNotLoaded(f"[serializers.{name}] is set, but there is no serialiser {name!r} installed")
    loaded: dict[str, Serializer] = {}
    for name, entry in sorted(found.items()):
        try:
            loaded[name] = entry.load()(settings.get(name, {}))
        except Exception as error:
            raise SerializerNotLoaded(f"serialiser {name!r} ({entry.value}) cannot be loaded: {error}") from error
    return loaded

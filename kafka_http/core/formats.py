"""The formats there are: each a serialiser, applied to records on their way in and out."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from kafka_http.encoding import check_json
from kafka_http.errors import InvalidPayload, InvalidValue, KafkaHttpError, UnsupportedFormat
from kafka_http.records import Headers, NewRecord, ProducerRecord
from kafka_http.serializers import Serializers

Role = Literal["key", "value"]

_EXTRAS = frozenset({"jsonschema", "protobuf"})
"""Formats whose serialisers are still to come."""


class Formats:
    """Serialises and deserialises by name. Safe in many threads."""

    def __init__(self, serializers: Serializers) -> None:
        self._serializers = serializers.loaded
        self._missing = serializers.missing
        self._takes_json_text = {name: getattr(each, "json_text", False) for name, each in self._serializers.items()}

    @property
    def names(self) -> list[str]:
        return list(self._serializers)

    def check(self, name: str) -> None:
        """Raise `UnsupportedFormat` where no serialiser has that name."""
        if name not in self._serializers:
            why = self._missing.get(name, f"No serialiser is named {name!r}.")
            if name in _EXTRAS - self._missing.keys():
                why = f"The format {name!r} needs the extra kafka_http[schemas], which is not installed."
            raise UnsupportedFormat(f"{why} There are: {', '.join(self._serializers)}.", formats=self.names)

    def encode(self, topic: str, records: Sequence[ProducerRecord]) -> list[NewRecord]:
        """Serialise a request's records. Raises for the first that cannot be, naming its index and field."""
        return [self._encode_record(topic, index, record) for index, record in enumerate(records)]

    def _encode_record(self, topic: str, index: int, record: ProducerRecord) -> NewRecord:
        value, key = record.value, record.key
        if value is not None and record.format is not None:
            value = self._encode(topic, index, record, ("value", record.format, value))
        if key is not None and record.key_format is not None:
            key = self._encode(topic, index, record, ("key", record.key_format, key))
        return NewRecord(value, key, record.partition, record.timestamp, record.headers)

    def _encode(self, topic: str, index: int, record: ProducerRecord, field: tuple[Role, str, bytes]) -> bytes:
        role, name, text = field
        try:
            self.check(name)
            data = text if self._takes_json_text[name] else msgspec.json.decode(text)
            return self._serializers[name].serialize(topic, record.headers, data)
        except InvalidPayload as error:
            path = f"records[{index}].{role}{error.path}"
            raise type(error)(error.problem, path, record=index, field=role + error.path) from None
        except KafkaHttpError as error:
            where = {"record": index, "field": role}
            raise type(error)(f"records[{index}].{role}: {error.message}", **where, **error.fields) from error
        except Exception as error:
            raise InvalidValue(f"records[{index}].{role}: {error}", record=index, field=role) from error

    def decode(self, topic: str, name: str, headers: Headers, data: bytes) -> bytes:
        """The JSON text of stored bytes. Raises `InvalidValue` where the format cannot read them."""
        try:
            value = self._serializers[name].deserialize(topic, headers, data)
            return value if self._takes_json_text[name] else msgspec.json.encode(value)
        except Exception as error:
            raise InvalidValue(f"format {name!r} cannot read it: {error}") from error

    def detect(self, data: bytes) -> tuple[str, bytes]:
        """The format that fits these bytes, and their JSON text: `json`, else `text`, else `binary`.

        The four bytes `null` are text, so that a null in an answer always is a tombstone.
        """
        try:
            check_json(data)
            if data.strip() != b"null":
                return "json", data
        except ValueError:
            pass
        try:
            return "text", msgspec.json.encode(str(data, "utf-8"))
        except UnicodeDecodeError:
            return "binary", self.decode("", "binary", [], data)

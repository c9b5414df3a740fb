"""Protobuf's JSON encoding, from messages to values: one function a message type, one a field, made once a schema.

https://protobuf.dev/programming-guides/json/, with the names in lowerCamelCase, and each field to which the schema
gives no presence also where it has its default, as Java's JsonFormat does for kafka-rest. `json_format` does some
well-known types alone: it puts the fields that are there before the others, takes its time, and knows no bounds.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from msgspec import Struct

from kafka_http.errors import InvalidValue
from kafka_http.schemas.json_floats import decode_double, decode_float
from kafka_http.schemas.protobuf_limits import Budget
from kafka_http.schemas.protobuf_names import ANY, HAS_JSON_OF_ITS_OWN, NULL_VALUE, WRAPPERS, entry_of, type_of
from kafka_http.schemas.value_errors import shortened

Read = Callable[[Any, Budget], Any]
"""What a message, or the value of a field, is in JSON."""
_SIZE = 100
"""Bytes that a message, and each of its fields, takes as Python's objects and in JSON, about."""


class _Field(Struct, frozen=True):
    """`presence` is the name to ask for where the field may be missing; without a `read` the value is that of JSON."""

    name: str
    presence: str | None
    get: Callable[[Message], Any]
    read: Read | None


class Readers(dict[str, Read]):
    """What reads the messages of each type, by its full name; made when it is first needed. Safe in many threads.

    Each may raise `InvalidValue` and `InvalidPayload`.
    """

    def __init__(self, pool: DescriptorPool) -> None:
        super().__init__()
        self._pool = pool

    def __missing__(self, type_: str) -> Read:
        read = self[type_] = self._made(self._pool.FindMessageTypeByName(type_))
        return read

    def _made(self, descriptor: Descriptor) -> Read:
        type_ = descriptor.full_name
        if type_ == ANY:
            return partial(_any, self._pool, self)
        if type_ in WRAPPERS:
            value = _scalar(descriptor.fields_by_name["value"])
            return lambda message, budget: message.value if value is None else value(message.value, budget)
        if type_ in HAS_JSON_OF_ITS_OWN:
            return lambda message, budget: MessageToDict(message)
        fields = [self._field(each) for each in sorted(descriptor.fields, key=attrgetter("number"))]
        read = _regular(fields)
        return partial(self._with_extensions, read) if descriptor.is_extendable else read

    def _field(self, field: FieldDescriptor) -> _Field:
        presence = field.name if field.has_presence else None
        return _Field(field.json_name, presence, attrgetter(field.name), self._of_field(field))

    def _of_field(self, field: FieldDescriptor) -> Read | None:
        if entry := entry_of(field):
            return _map(entry[0], self._of_item(entry[1]))
        return _array(self._of_item(field)) if field.is_repeated else self._of_item(field)

    def _of_item(self, field: FieldDescriptor) -> Read | None:
        type_ = type_of(field)
        if not type_:
            return _scalar(field)
        return lambda message, budget: self[type_](message, budget)  # noqa: PLW0108  made when it is needed

    def _with_extensions(self, read: Read, message: Message, budget: Budget) -> dict[str, Any]:
        values: dict[str, Any] = read(message, budget)
        for field, value in message.ListFields():
            if field.is_extension:
                convert = self._of_field(field)
                values[f"[{field.full_name}]"] = value if convert is None else convert(value, budget)
        return values


def _regular(fields: Sequence[_Field]) -> Read:
    listed = [(each.name, each.presence, each.get, each.read) for each in fields]
    size = _SIZE * (1 + sum(each.presence is None for each in fields))

    def read(message: Message, budget: Budget) -> dict[str, Any]:
        budget.enter(size)
        values: dict[str, Any] = {}
        for name, presence, get, convert in listed:
            if presence is None or message.HasField(presence):
                value = get(message)
                values[name] = value if convert is None else convert(value, budget)
        budget.leave()
        return values

    return read


def _array(convert: Read | None) -> Read:
    if convert is None:
        return lambda items, budget: list(items)
    return lambda items, budget: [convert(each, budget) for each in items]


def _map(key: FieldDescriptor, convert: Read | None) -> Read:
    name: Callable[[Any], str] = _boolean_key if key.type == FieldDescriptor.TYPE_BOOL else str
    if convert is None:
        return lambda items, budget: {name(key): value for key, value in items.items()}
    return lambda items, budget: {name(key): convert(value, budget) for key, value in items.items()}


def _boolean_key(key: bool) -> str:
    return "true" if key else "false"


def _scalar(field: FieldDescriptor) -> Read | None:
    if field.enum_type is not None:
        return _enum(field.enum_type)
    if field.cpp_type in {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}:
        return lambda value, budget: str(value)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return lambda value, budget: decode_float(value)
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return lambda value, budget: decode_double(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value, budget: b64encode(value).decode()
    return None


def _enum(enum: EnumDescriptor) -> Read:
    if enum.full_name == NULL_VALUE:
        return lambda value, budget: None
    names = {number: value.name for number, value in enum.values_by_number.items()}
    return lambda value, budget: names.get(value, value)


def _any(pool: DescriptorPool, readers: Readers, message: Any, budget: Budget) -> dict[str, Any]:
    type_url: str = message.type_url
    if not type_url:
        return {}
    type_ = type_url.rpartition("/")[2]
    try:
        content = GetMessageClass(pool.FindMessageTypeByName(type_)).FromString(message.value)
    except KeyError:
        raise InvalidValue(f'it holds a message "{shortened(type_)}", which its schema does not have') from None
    except DecodeError:
        raise InvalidValue("its bytes do not fit its schema") from None
    budget.enter(_SIZE)
    value = readers[type_](content, budget)
    budget.leave()
    return {"@type": type_url, "value": value} if type_ in HAS_JSON_OF_ITS_OWN else {"@type": type_url, **value}

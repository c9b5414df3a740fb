"""Protobuf's JSON encoding, from values to messages: one function a message type, one a field, made once a schema.

https://protobuf.dev/programming-guides/json/. `json_format` does some well-known types alone: it does not say where a
fault is, and it looks up all of a type's fields anew for each message.
"""

from collections.abc import Callable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kafka_http.errors import InvalidPayload
from kafka_http.schemas.protobuf_limits import MAX_DEPTH, Budget, size_of
from kafka_http.schemas.protobuf_names import (
    ANY,
    HAS_JSON_OF_ITS_OWN,
    NULL_VALUE,
    PLAIN_JSON,
    TEXTS,
    VALUE,
    WRAPPERS,
    entry_of,
    type_of,
)
from kafka_http.schemas.protobuf_scalars import Convert, map_key, scalar
from kafka_http.schemas.value_errors import shortened, step, wrong

FillMessage = Callable[[Any, Any, Budget], None]
"""Put a value (the second) where it belongs: into an empty message, a message's field, or a field's items.

Raises `InvalidPayload` with the path from there.
"""


class Fillers(dict[str, FillMessage]):
    """What fills the messages of each type, by its full name; made when it is first needed. Safe in many threads."""

    def __init__(self, pool: DescriptorPool) -> None:
        super().__init__()
        self._pool = pool

    def __missing__(self, type_: str) -> FillMessage:
        fill = self[type_] = self._made(self._pool.FindMessageTypeByName(type_))
        return fill

    def _made(self, descriptor: Descriptor) -> FillMessage:
        type_ = descriptor.full_name
        if type_ == ANY:
            return partial(_fill_any, self._pool, self)
        if type_ in WRAPPERS:
            return _field_of_scalar(descriptor.fields_by_name["value"])
        if type_ in TEXTS:
            return _text(TEXTS[type_])
        if type_ in PLAIN_JSON:
            return _plain_json(PLAIN_JSON[type_])
        return _regular(descriptor, self._fields(descriptor))

    def _fields(self, descriptor: Descriptor) -> Mapping[str, tuple[int, FillMessage]]:
        """By the names in JSON, and in the schema: each field's number, and what fills it."""
        found: dict[str, tuple[int, FillMessage]] = {}
        for field in descriptor.fields:
            found[field.json_name] = found[field.name] = (field.number, self._field(field))
        for field in self._pool.FindAllExtensions(descriptor) if descriptor.is_extendable else ():
            found[f"[{field.full_name}]"] = (field.number, self._field(field))
        return found

    def _field(self, field: FieldDescriptor) -> FillMessage:
        if entry := entry_of(field):
            return self._map_field(field, *entry)
        if field.is_repeated:
            return self._array_field(field)
        put = self._message_field(field) if type_of(field) else _field_of_scalar(field)
        oneof = field.containing_oneof
        return put if oneof is None else _alone(put, oneof.name, [each.name for each in oneof.fields])

    def _message_field(self, field: FieldDescriptor) -> FillMessage:
        get, type_ = _getter(field), type_of(field)

        def put(message: Message, data: Any, budget: Budget) -> None:
            if data is not None or type_ == VALUE:
                inner = get(message)
                inner.SetInParent()
                self[type_](inner, data, budget)

        return put

    def _array_field(self, field: FieldDescriptor) -> FillMessage:
        get, add = _getter(field), self._item(field)

        def put(message: Message, data: Any, budget: Budget) -> None:
            if data is None:
                return
            if type(data) is not list:
                raise wrong("array", data)
            items, done = get(message), 0
            try:
                for item in data:
                    add(items, item, budget)
                    done += 1
            except InvalidPayload as error:
                raise error.within(f"[{done}]") from None

        return put

    def _item(self, field: FieldDescriptor) -> FillMessage:
        if type_ := type_of(field):
            return lambda items, data, budget: self[type_](items.add(), data, budget)
        convert = scalar(field)
        return lambda items, data, budget: items.append(convert(data))

    def _map_field(self, field: FieldDescriptor, key: FieldDescriptor, value: FieldDescriptor) -> FillMessage:
        get, put_at = _getter(field), self._entry(value, map_key(key))

        def put(message: Message, data: Any, budget: Budget) -> None:
            if data is None:
                return
            if type(data) is not dict:
                raise wrong("map as an object", data)
            items, name = get(message), ""
            try:
                for name, each in data.items():
                    put_at(items, (name, each), budget)
            except InvalidPayload as error:
                raise error.within(step(name)) from None

        return put

    def _entry(self, field: FieldDescriptor, key_of: Convert) -> FillMessage:
        if type_ := type_of(field):
            return lambda items, data, budget: self[type_](items[key_of(data[0])], data[1], budget)
        convert = scalar(field)

        def put(items: Any, data: tuple[str, Any], budget: Budget) -> None:
            items[key_of(data[0])] = convert(data[1])

        return put


def _getter(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.is_extension:
        return lambda message: message.Extensions[field]
    return attrgetter(field.name)


def _field_of_scalar(field: FieldDescriptor) -> FillMessage:
    name, convert = field.name, scalar(field)
    takes_null = field.enum_type is not None and field.enum_type.full_name == NULL_VALUE

    def put(message: Message, data: Any, budget: Budget) -> None:
        if data is not None or takes_null:
            setattr(message, name, convert(data))

    def put_extension(message: Any, data: Any, budget: Budget) -> None:
        if data is not None or takes_null:
            message.Extensions[field] = convert(data)

    return put_extension if field.is_extension else put


def _alone(put: FillMessage, oneof: str, names: list[str]) -> FillMessage:
    def put_alone(message: Message, data: Any, budget: Budget) -> None:
        if data is not None and message.WhichOneof(oneof) is not None:
            raise InvalidPayload(f"only one of {shortened(', '.join(names))} may be there")
        put(message, data, budget)

    return put_alone


def _regular(descriptor: Descriptor, fields: Mapping[str, tuple[int, FillMessage]]) -> FillMessage:
    type_, size = descriptor.full_name, size_of(len(descriptor.fields))
    has_aliases = len(fields) > len({number for number, _ in fields.values()})

    def fill(message: Message, data: Any, budget: Budget) -> None:
        if type(data) is not dict:
            raise wrong(f"{type_} as an object", data)
        budget.enter(size)
        name = ""
        try:
            for name, value in data.items():
                if name not in fields:
                    raise InvalidPayload(f"{type_} has no such field")
                fields[name][1](message, value, budget)
        except InvalidPayload as error:
            raise error.within(step(name)) from None
        if has_aliases and len({fields[name][0] for name in data}) < len(data):
            raise InvalidPayload("one of its fields is there by both of its names")
        budget.leave()

    return fill


def _text(expected: str) -> FillMessage:
    def fill(message: Message, data: Any, budget: Budget) -> None:
        if not isinstance(data, str):
            raise wrong(expected, data)
        try:
            ParseDict(cast(Any, data), message)
        except (ParseError, ValueError, OverflowError):
            raise InvalidPayload(f'expected {expected}, got "{shortened(data)}"') from None

    return fill


def _plain_json(expected: str) -> FillMessage:
    kind = {"object": dict, "array": list}.get(expected, object)

    def fill(message: Message, data: Any, budget: Budget) -> None:
        if not isinstance(data, kind):
            raise wrong(expected, data)
        depth = (MAX_DEPTH - budget.depth) * 2 // 3  # json_format counts two levels where a reader has three
        try:
            ParseDict(cast(Any, data), message, max_recursion_depth=depth)
        except ParseError:
            raise InvalidPayload("it is nested too deeply") from None
        except (ValueError, TypeError, OverflowError):
            raise InvalidPayload("it holds a number that is too large for a double") from None

    return fill


def _fill_any(pool: DescriptorPool, fillers: Fillers, message: Any, data: Any, budget: Budget) -> None:
    if type(data) is not dict:
        raise wrong('object with "@type"', data)
    if not data:
        return
    type_url = data.get("@type")
    if type(type_url) is not str:
        raise InvalidPayload("is missing, or no string", step("@type"))
    type_ = type_url.rpartition("/")[2]
    try:
        content = GetMessageClass(pool.FindMessageTypeByName(type_))()
    except KeyError:
        raise InvalidPayload(f'the schema has no message "{shortened(type_)}"', step("@type")) from None
    budget.enter(0)
    if type_ in HAS_JSON_OF_ITS_OWN:
        _fill_from_value(fillers[type_], content, data, budget)
    else:
        fillers[type_](content, {key: value for key, value in data.items() if key != "@type"}, budget)
    budget.leave()
    check_required(content)
    message.type_url, message.value = type_url, content.SerializeToString(deterministic=True)


def _fill_from_value(fill: FillMessage, content: Message, data: Mapping[str, Any], budget: Budget) -> None:
    """What has a JSON of its own lies in `value`, beside `@type`."""
    if data.keys() != {"@type", "value"}:
        raise InvalidPayload('expected "@type" and "value" alone')
    try:
        fill(content, data["value"], budget)
    except InvalidPayload as error:
        raise error.within(".value") from None


def check_required(message: Any) -> None:
    """Raise `InvalidPayload` where a field is missing that the schema requires."""
    if not message.IsInitialized():
        path = message.FindInitializationErrors()[0]
        raise InvalidPayload("is missing, and the schema requires it", f".{path}")

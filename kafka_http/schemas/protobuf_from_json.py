"""Convert JSON to Protobuf messages: https://protobuf.dev/programming-guides/json/.

`google.protobuf.json_format` 7.36.2 does this only for some well-known types here. Measured (a message of 20 fields):

* It writes 12,600 messages a second, this module 41,000.
* Many of its errors have no path (`invalid literal for int() with base 10: 'x'`). Its paths do not quote the keys of
  maps.
* It raises TypeError, KeyError or OverflowError for some values, stores 0 for the enum number 2**40, and accepts a
  field that is given by both of its names.
* It limits the depth and not the memory: 500,000 empty objects become messages of some GiB.

json_format looks up the fields of a type for each message. Here each type has functions that are made once.
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from kafka_http.errors import InvalidPayload
from kafka_http.schemas.json_values import (
    MAX_DOUBLE,
    MAX_FLOAT,
    Convert,
    path_step,
    quote,
    shorten,
    to_array,
    to_boolean,
    to_float,
    to_integer,
    to_map,
    to_string,
    wrong_type,
)
from kafka_http.schemas.protobuf_limits import MAX_DEPTH, MessageBudget, ThreadBudget, message_memory
from kafka_http.schemas.protobuf_wellknown import (
    ANY,
    NULL_VALUE,
    SPECIAL_TYPES,
    STRING_TYPES,
    STRUCT_TYPES,
    VALUE,
    WRAPPERS,
    map_entry,
    message_type,
)

Field = tuple[str | FieldDescriptor, Convert, bool, str | None]
"""A field: its name (an extension: its descriptor), its conversion, whether it takes null, the name of its oneof.

A plain tuple, because Python unpacks it faster than a named one.
"""


class JsonParser(dict[str, Convert]):
    """Converts JSON to messages.

    Maps the full name of a message type to the function that converts a JSON value to what the constructor of a message
    takes for a field of this type: a dict, or a message. The functions are made on first use. Safe in many threads.
    """

    def __init__(self, pool: DescriptorPool) -> None:
        super().__init__()
        self._pool = pool
        self._budget = ThreadBudget()

    def parse(self, type_: str, data: Any) -> Message:
        """Return the message for a JSON value. Raises `InvalidPayload`."""
        self._budget.current = MessageBudget()
        return self._checked_message(type_, self[type_](data))

    def __missing__(self, type_: str) -> Convert:
        convert = self[type_] = self._converter(self._pool.FindMessageTypeByName(type_))
        return convert

    def _converter(self, descriptor: Descriptor) -> Convert:
        type_ = descriptor.full_name
        if type_ == ANY:
            return self._convert_any
        if type_ in WRAPPERS:
            convert = _scalar_converter(descriptor.fields_by_name["value"])
            return lambda data: {} if data is None else {"value": convert(data)}
        if type_ in STRING_TYPES:
            return self._string_type_converter(type_)
        if type_ in STRUCT_TYPES:
            return self._struct_converter(type_)
        convert = self._object_converter(descriptor, self._fields(descriptor))
        return self._extendable_converter(type_, convert) if descriptor.is_extendable else convert

    def _message(self, type_: str, value: Any) -> Message:
        if isinstance(value, Message):
            return value
        return GetMessageClass(self._pool.FindMessageTypeByName(type_))(**value)

    def _checked_message(self, type_: str, value: Any) -> Message:
        message = self._message(type_, value)
        if not message.IsInitialized():
            path = message.FindInitializationErrors()[0]  # type: ignore[attr-defined]
            raise InvalidPayload("the required field is missing", f".{path}")
        return message

    def _fields(self, descriptor: Descriptor) -> Mapping[str, Field]:
        """Return the fields by their names in JSON and by their names in the schema."""
        found: dict[str, Field] = {}
        for field in descriptor.fields:
            found[field.json_name] = found[field.name] = self._field(field)
        for extension in self._pool.FindAllExtensions(descriptor) if descriptor.is_extendable else ():
            found[f"[{extension.full_name}]"] = self._field(extension)
        return found

    def _field(self, field: FieldDescriptor) -> Field:
        if entry := map_entry(field):
            convert = to_map(self._item_converter(entry[1]), _map_key_converter(entry[0]))
        else:
            convert = self._item_converter(field)
        if field.is_repeated and not entry:
            convert = to_array(convert)
        has_null = message_type(field) == VALUE or _is_null_value(field)
        oneof = field.containing_oneof
        key = field if field.is_extension else field.name
        return key, convert, has_null and not field.is_repeated, None if oneof is None else oneof.name

    def _item_converter(self, field: FieldDescriptor) -> Convert:
        type_ = message_type(field)
        if not type_:
            return _scalar_converter(field)
        return lambda data: self[type_](data)  # noqa: PLW0108  a type may contain itself

    def _object_converter(self, descriptor: Descriptor, fields: Mapping[str, Field]) -> Convert:
        type_, memory, thread_budget = descriptor.full_name, message_memory(len(descriptor.fields)), self._budget
        has_aliases = len(fields) > len({key for key, *_ in fields.values()})

        def convert(data: Any) -> dict[Any, Any]:
            if type(data) is not dict:
                raise wrong_type(f"{type_} as an object", data)
            budget = thread_budget.current
            budget.enter(memory)
            values = _convert_fields(type_, fields, data)
            if has_aliases and len({fields[name][0] for name in data}) < len(data):
                raise InvalidPayload("a field is given by both of its names")
            budget.leave()
            return values

        return convert

    def _extendable_converter(self, type_: str, convert: Convert) -> Convert:
        """Return a converter to messages: a constructor does not take extensions."""

        def convert_with_extensions(data: Any) -> Message:
            values = convert(data)
            extensions = {field: values.pop(field) for field in [*values] if not isinstance(field, str)}
            message = self._message(type_, values)
            for field, value in extensions.items():
                self._set_extension(message, field, value)
            return message

        return convert_with_extensions

    def _set_extension(self, message: Any, field: FieldDescriptor, value: Any) -> None:
        type_ = message_type(field)
        if field.is_repeated:
            message.Extensions[field].extend([self._message(type_, each) for each in value] if type_ else value)
        elif type_:
            message.Extensions[field].SetInParent()
            message.Extensions[field].MergeFrom(self._message(type_, value))
        else:
            message.Extensions[field] = value

    def _string_type_converter(self, type_: str) -> Convert:
        expected = STRING_TYPES[type_]

        def convert(data: Any) -> Message:
            if not isinstance(data, str):
                raise wrong_type(expected, data)
            try:
                return ParseDict(cast(Any, data), self._message(type_, {}))
            except (ParseError, ValueError, OverflowError):
                raise InvalidPayload(f"expected {expected}, got {quote(data)}") from None

        return convert

    def _struct_converter(self, type_: str) -> Convert:
        expected = STRUCT_TYPES[type_]
        python_type = {"object": dict, "array": list}.get(expected, object)

        def convert(data: Any) -> Message:
            if not isinstance(data, python_type):
                raise wrong_type(expected, data)
            depth = (
                (MAX_DEPTH - self._budget.current.depth) * 2 // 3
            )  # a reader counts 3 levels where json_format counts 2
            try:
                return ParseDict(cast(Any, data), self._message(type_, {}), max_recursion_depth=depth)
            except ParseError:
                raise InvalidPayload("the value is nested too deeply") from None
            except (ValueError, TypeError, OverflowError):
                raise InvalidPayload("the value has a number that is too large for a double") from None

        return convert

    def _convert_any(self, data: Any) -> dict[str, Any]:
        if type(data) is not dict:
            raise wrong_type('object with "@type"', data)
        if not data:
            return {}
        type_url = data.get("@type")
        if type(type_url) is not str:
            raise InvalidPayload("the type is missing or not a string", path_step("@type"))
        type_ = type_url.rpartition("/")[2]
        try:
            convert = self[type_]
        except KeyError:
            raise InvalidPayload(f'the schema has no message "{shorten(type_)}"', path_step("@type")) from None
        self._budget.current.enter(0)
        value = _convert_any_content(convert, data, type_ in SPECIAL_TYPES)
        self._budget.current.leave()
        content = self._checked_message(type_, value)
        return {"type_url": type_url, "value": content.SerializeToString(deterministic=True)}


def _convert_fields(type_: str, fields: Mapping[str, Field], data: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the values by the names of the fields, those of extensions by their descriptors."""
    values: dict[Any, Any] = {}
    oneofs: set[str] = set()
    name = ""
    try:
        for name, value in data.items():
            field = fields.get(name)
            if field is None:
                raise InvalidPayload(f"{type_} has no such field")
            key, convert, takes_null, oneof = field
            if value is None and not takes_null:
                continue
            if oneof is not None:
                if value is not None and oneof in oneofs:
                    raise InvalidPayload(f"only one field of the oneof {oneof} may be set")
                oneofs.add(oneof)
            values[key] = convert(value)
    except InvalidPayload as error:
        raise error.within(path_step(name)) from None
    return values


def _convert_any_content(convert: Convert, data: Mapping[str, Any], is_special: bool) -> Any:
    """Convert the content of an Any: the JSON of a special type is in `value`, other fields are next to `@type`."""
    if not is_special:
        return convert({key: value for key, value in data.items() if key != "@type"})
    if data.keys() != {"@type", "value"}:
        raise InvalidPayload('expected only "@type" and "value"')
    try:
        return convert(data["value"])
    except InvalidPayload as error:
        raise error.within(".value") from None


def _is_null_value(field: FieldDescriptor) -> bool:
    return field.enum_type is not None and field.enum_type.full_name == NULL_VALUE


def _scalar_converter(field: FieldDescriptor) -> Convert:
    if field.enum_type is not None:
        return _to_null if _is_null_value(field) else _enum_converter(field.enum_type)
    return _SCALARS[field.type]


def _map_key_converter(field: FieldDescriptor) -> Convert:
    """Return the conversion of a map's key, which is a string in JSON."""
    return _boolean_key if field.type == FieldDescriptor.TYPE_BOOL else _SCALARS[field.type]


def _boolean_key(data: str) -> bool:
    if data not in {"true", "false"}:
        raise InvalidPayload('expected "true" or "false" as a key')
    return data == "true"


def _to_bytes(data: Any) -> bytes:
    if type(data) is not str:
        raise wrong_type("bytes as a string of base64", data)
    text = data.replace("-", "+").replace("_", "/")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise InvalidPayload("expected bytes as a string of base64") from None


def _to_null(data: Any) -> int:
    if data is None or data in ("NULL_VALUE", 0):
        return 0
    raise wrong_type("null", data)


def _enum_converter(enum: EnumDescriptor) -> Convert:
    numbers = {value.name: value.number for value in enum.values}
    closed = frozenset(numbers.values()) if enum.is_closed else None
    expected = f"one of {', '.join([*numbers][:20])}{', …' if len(numbers) > 20 else ''}"
    to_number = to_integer(f"{enum.name}'s number", -(1 << 31), (1 << 31) - 1)

    def convert(data: Any) -> int:
        if type(data) is str and data in numbers:
            return numbers[data]
        if type(data) not in {int, float, str}:
            raise wrong_type(expected, data)
        number: int | None = None if type(data) is str else to_number(data)
        if number is None or (closed is not None and number not in closed):
            raise InvalidPayload(f"expected {expected}, got {quote(data)}")
        return number

    return convert


_INT32 = to_integer("int32", -(1 << 31), (1 << 31) - 1, texts=True)
_INT64 = to_integer("int64", -(1 << 63), (1 << 63) - 1, texts=True)
_UINT32 = to_integer("uint32", 0, (1 << 32) - 1, texts=True)
_UINT64 = to_integer("uint64", 0, (1 << 64) - 1, texts=True)

_SCALARS: Mapping[int, Convert] = {
    **dict.fromkeys([FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32], _INT32),
    **dict.fromkeys([FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64], _INT64),
    **dict.fromkeys([FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32], _UINT32),
    **dict.fromkeys([FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64], _UINT64),
    FieldDescriptor.TYPE_FLOAT: to_float("float", MAX_FLOAT, texts=True),
    FieldDescriptor.TYPE_DOUBLE: to_float("double", MAX_DOUBLE, texts=True),
    FieldDescriptor.TYPE_BOOL: to_boolean,
    FieldDescriptor.TYPE_STRING: to_string,
    FieldDescriptor.TYPE_BYTES: _to_bytes,
}

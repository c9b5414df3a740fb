"""Compile an Avro schema to a schema for fastavro and to converters between JSON and fastavro's values.

The schema registry checks a schema when it is registered. Checked here is what conversion relies on, and what would let
a small message exhaust a worker: fastavro's reader is in C, follows a type without end, and reads as many items that
take no space as a few bytes say. Schemas: https://avro.apache.org/docs/1.12.0/specification/#schema-declaration

In the schema for fastavro, named types have names of our own, and logical types, aliases and defaults are left out.
fastavro cannot tell int from long nor float from double in a union: such branches become records of one field, which
have the same bytes as the field.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from kafka_http.errors import InvalidPayload, InvalidSchema
from kafka_http.schemas import avro_values as values
from kafka_http.schemas.avro_values import Branch, Default, DefaultsBudget
from kafka_http.schemas.json_values import (
    MAX_DOUBLE,
    MAX_FLOAT,
    Convert,
    decode_double,
    decode_float,
    to_array,
    to_boolean,
    to_float,
    to_integer,
    to_map,
    to_string,
)

MAX_DEPTH = 100
"""Levels of types inside each other."""
_MAX_EMPTY_PARTS = 16
_MAX_FIXED = 1 << 24
_TOO_DEEP = f"types are nested more than {MAX_DEPTH} levels deep."
_SAME_IN_PYTHON = ({"int", "long"}, {"float", "double"})

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
Name = Annotated[str, Meta(pattern=rf"^{_NAME}\Z")]
_FULL_NAME = re.compile(rf"{_NAME}(\.{_NAME})*")


class _Named(Struct):
    name: str
    namespace: str | UnsetType | None = UNSET


class _Field(Struct):
    name: Name
    type: Any
    default: Any = UNSET


class _Record(_Named, kw_only=True):
    fields: list[_Field]


class _Enum(_Named, kw_only=True):
    symbols: Annotated[list[Name], Meta(min_length=1)]


class _Fixed(_Named, kw_only=True):
    size: Annotated[int, Meta(ge=0, le=_MAX_FIXED)]


class _Array(Struct):
    items: Any


class _Map(Struct):
    values: Any


@dataclass(slots=True, eq=False)
class AvroType:
    """A compiled type: its name in JSON, its name (`tag`) and schema for fastavro, and its converters.

    `children` are the types of fields, items or branches. `min_size` is the least number of bytes of a value,
    `empty_parts` the number of its parts that take no bytes. A record is `incomplete` until its fields are compiled.
    """

    kind: str
    name: str
    tag: str
    schema: Any
    encode: Convert
    decode: Convert | None = None
    children: Sequence["AvroType"] = ()
    min_size: int = 1
    empty_parts: int = 0
    depth: int = 1
    incomplete: bool = False

    def __post_init__(self) -> None:
        self.depth = 1 + max((each.depth for each in self.children), default=0)

    def set_fields(self, fields: Mapping[str, "AvroType"]) -> None:
        """Complete a record."""
        self.schema["fields"] = [{"name": name, "type": each.schema} for name, each in fields.items()]
        self.children = tuple(fields.values())
        self.min_size = sum(each.min_size for each in self.children)
        self.empty_parts = sum(each.empty_parts for each in self.children) or not self.children
        decoders = {name: each.decode for name, each in fields.items() if each.decode is not None}
        self.decode = values.record_decoder(decoders) if decoders else None
        self.incomplete = False
        self.__post_init__()


_PRIMITIVES: Mapping[str, tuple[Convert, Convert | None, int]] = {
    "null": (values.encode_null, None, 0),
    "boolean": (to_boolean, None, 1),
    "int": (to_integer("int", -(1 << 31), (1 << 31) - 1), None, 1),
    "long": (to_integer("long", -(1 << 63), (1 << 63) - 1), None, 1),
    "float": (to_float("float", MAX_FLOAT), decode_float, 4),
    "double": (to_float("double", MAX_DOUBLE), decode_double, 8),
    "string": (to_string, None, 1),
    "bytes": (values.encode_bytes, values.decode_bytes, 1),
}
"""Encoder, decoder and least number of bytes."""


def _primitive(name: str) -> AvroType:
    encode, decode, min_size = _PRIMITIVES[name]
    return AvroType(name, name, name, name, encode, decode, min_size=min_size, empty_parts=not min_size)


def _reference(type_: AvroType) -> AvroType:
    """Return a type for the name of a type that is already defined.

    Inside its own definition a record is `incomplete`. Such a reference takes a byte at least: without the byte of a
    union's branch, or of the end of an array or a map, the record would not end.
    """
    if not type_.incomplete:
        return replace(type_, schema=type_.tag)

    def encode(data: Any) -> Any:
        return type_.encode(data)

    def decode(value: Any) -> Any:
        return value if type_.decode is None else type_.decode(value)

    reference = AvroType("reference", type_.name, type_.tag, type_.tag, encode, decode)
    reference.children = (type_,)  # set after the depth is computed, which is unknown until the record is complete
    return reference


class AvroCompiler:
    """Compiles schemas one after the other; each can use the types of the schemas before it.

    `is_recursive` says whether some type contains itself, so that messages can have any depth. `defaults_budget` limits
    what defaults add to a message.
    """

    def __init__(self) -> None:
        self.is_recursive = False
        self.defaults_budget = DefaultsBudget()
        self._named: dict[str, AvroType] = {}
        self._branch_numbers = count()
        self._depth = 0
        self._enclosing: list[str] = []
        self._pending_defaults: list[Callable[[], None]] = []
        self._builders: Mapping[str, tuple[type[Struct], Callable[[Any, str], AvroType]]] = {
            "record": (_Record, self._record),
            "error": (_Record, self._record),
            "enum": (_Enum, self._enum),
            "fixed": (_Fixed, self._fixed),
            "array": (_Array, self._array),
            "map": (_Map, self._map),
        }

    def compile(self, text: str) -> AvroType:
        """Return the outermost type of a schema. Raises `InvalidSchema`."""
        try:
            type_ = self._compile(msgspec.json.decode(text), "")
        except msgspec.DecodeError as error:
            raise InvalidSchema(f"the text is not JSON: {error}.") from None
        except RecursionError:
            raise InvalidSchema(_TOO_DEEP) from None
        # A default may be a value of a record that is defined around it, so all types must be complete.
        for convert_defaults in self._pending_defaults:
            convert_defaults()
        self._pending_defaults.clear()
        return type_

    def _compile(self, schema: Any, namespace: str) -> AvroType:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidSchema(_TOO_DEEP)
        type_ = self._build(schema, namespace)
        self._depth -= 1
        # Types that are defined one after the other can nest by their names.
        if type_.depth > MAX_DEPTH:
            raise InvalidSchema(_TOO_DEEP)
        return type_

    def _build(self, schema: Any, namespace: str) -> AvroType:
        if isinstance(schema, str):
            return _primitive(schema) if schema in _PRIMITIVES else self._find(schema, namespace)
        if isinstance(schema, list):
            return self._union(schema, namespace)
        kind = schema.get("type") if isinstance(schema, dict) else None
        if isinstance(kind, dict | list):
            return self._compile(kind, namespace)
        if not isinstance(kind, str):
            raise InvalidSchema(f'a type must be a name, a list, or an object with a "type", got {_shown(schema)}.')
        if kind not in self._builders:
            return self._build(kind, namespace)
        struct, build = self._builders[kind]
        try:
            parsed = msgspec.convert(schema, struct)
        except msgspec.ValidationError as error:
            raise InvalidSchema(f"the {kind} {_shown(schema)} is not valid: {error}.") from None
        return build(parsed, namespace)

    def _find(self, name: str, namespace: str) -> AvroType:
        # A name without a dot is looked up in the enclosing namespace first.
        type_ = self._named.get(f"{namespace}.{name}") or self._named.get(name)
        if type_ is None:
            raise InvalidSchema(f"the type {name[:200]!r} is used before it is defined, or not defined.")
        if type_.name in self._enclosing:
            raise InvalidSchema(f"the record {type_.name} always contains itself, so that no value of it can end.")
        self.is_recursive = self.is_recursive or type_.incomplete
        return _reference(type_)

    def _define(self, named: _Named, namespace: str) -> tuple[str, str]:
        """Return the full name of a new type, and its name for fastavro."""
        space = namespace if named.namespace is UNSET else named.namespace
        name = named.name if "." in named.name or not space else f"{space}.{named.name}"
        if not _FULL_NAME.fullmatch(name):
            raise InvalidSchema(f"{name[:200]!r} is not a valid name for a type.")
        if name in _PRIMITIVES or name in self._named:
            raise InvalidSchema(f"the type {name} is already defined.")
        return name, f"t{len(self._named)}"

    def _record(self, record: _Record, namespace: str) -> AvroType:
        name, tag = self._define(record, namespace)
        if len({each.name for each in record.fields}) < len(record.fields):
            raise InvalidSchema(f"the record {name} has two fields of the same name.")
        type_ = AvroType("record", name, tag, {"type": "record", "name": tag}, values.encode_null, incomplete=True)
        self._named[name] = type_
        self._enclosing.append(name)
        types = {each.name: self._compile(each.type, name.rpartition(".")[0]) for each in record.fields}
        self._enclosing.pop()
        type_.set_fields(types)
        # Records of records double such parts at each level: a message of no bytes could have 2**30 values.
        if type_.empty_parts > _MAX_EMPTY_PARTS + type_.min_size:
            raise InvalidSchema(f"the record {name} has too many parts that take no bytes.")
        defaults: dict[str, Default] = {}
        encoders = {field: each.encode for field, each in types.items()}
        type_.encode = values.record_encoder(name, encoders, defaults, self.defaults_budget)
        self._pending_defaults.append(partial(self._convert_defaults, record.fields, types, defaults))
        return type_

    def _convert_defaults(
        self, fields: Sequence[_Field], types: Mapping[str, AvroType], defaults: dict[str, Default]
    ) -> None:
        for field in fields:
            default = None if field.default is UNSET else self._default(types[field.name], field.default)
            if default is not None:
                defaults[field.name] = default

    def _default(self, type_: AvroType, value: Any) -> Default | None:
        """Convert a field's default; None if it does not fit the type, so that the field counts as without default.

        The default of a union is a value of one of its branches, without the branch's name.
        """
        is_union = type_.kind == "union"
        for branch in type_.children if is_union else (type_,):
            self.defaults_budget.used = 0
            try:
                encoded = branch.encode(value)
            except InvalidPayload:
                continue
            size = len(msgspec.json.encode(value)) + self.defaults_budget.used
            return Default((branch.tag, encoded) if is_union else encoded, size)
        return None

    def _enum(self, enum: _Enum, namespace: str) -> AvroType:
        name, tag = self._define(enum, namespace)
        if len(set(enum.symbols)) < len(enum.symbols):
            raise InvalidSchema(f"the enum {name} has two symbols of the same name.")
        schema = {"type": "enum", "name": tag, "symbols": enum.symbols}
        self._named[name] = AvroType("enum", name, tag, schema, values.enum_encoder(enum.symbols))
        return self._named[name]

    def _fixed(self, fixed: _Fixed, namespace: str) -> AvroType:
        name, tag = self._define(fixed, namespace)
        schema = {"type": "fixed", "name": tag, "size": fixed.size}
        type_ = AvroType("fixed", name, tag, schema, values.fixed_encoder(fixed.size), values.decode_bytes)
        type_.min_size, type_.empty_parts = fixed.size, not fixed.size
        self._named[name] = type_
        return type_

    def _array(self, array: _Array, namespace: str) -> AvroType:
        with self._optional():
            items = self._compile(array.items, namespace)
        # fastavro would read as many items as the count in the message says, and needs no more bytes for them.
        if not items.min_size:
            raise InvalidSchema("the items of an array take no bytes, so a few bytes could stand for any number.")
        schema = {"type": "array", "items": items.schema}
        decode = items.decode and values.array_decoder(items.decode)
        return AvroType("array", "array", "array", schema, to_array(items.encode), decode, (items,))

    def _map(self, map_: _Map, namespace: str) -> AvroType:
        with self._optional():
            inner = self._compile(map_.values, namespace)
        schema = {"type": "map", "values": inner.schema}
        decode = inner.decode and values.map_decoder(inner.decode)
        return AvroType("map", "map", "map", schema, to_map(inner.encode), decode, (inner,))

    @contextmanager
    def _optional(self) -> Iterator[None]:
        """Let a record contain itself in here: the array or map may be empty, the union have another branch."""
        enclosing, self._enclosing = self._enclosing, []
        yield
        self._enclosing = enclosing

    def _union(self, schema: Sequence[Any], namespace: str) -> AvroType:
        with self._optional():
            types = [self._compile(each, namespace) for each in schema]
        names = {each.name for each in types}
        if len(names) < len(types) or "union" in names:
            raise InvalidSchema(f"a union has two branches of one type, or a union as a branch: {_shown(schema)}.")
        # int and long are both int in Python, and fastavro does not say which branch a value is from.
        wrapped = {name for group in _SAME_IN_PYTHON if group <= names for name in group}
        children = [self._as_record(each) if each.name in wrapped else each for each in types]
        branches = [Branch(each.name, each.tag, each.encode, each.decode) for each in children]
        encode, decode = values.union_encoder(branches), values.union_decoder(branches)
        return AvroType("union", "union", "union", [each.schema for each in children], encode, decode, children)

    def _as_record(self, type_: AvroType) -> AvroType:
        """Return a branch as a record of one field, so that fastavro gives the branch's name with its value."""
        encode, decode = type_.encode, type_.decode or (lambda value: value)
        tag = f"b{next(self._branch_numbers)}"
        return AvroType(
            "record",
            type_.name,
            tag,
            {"type": "record", "name": tag, "fields": [{"name": "v", "type": type_.schema}]},
            lambda data: {"v": encode(data)},
            lambda value: decode(value["v"]),
            (type_,),
        )


def _shown(schema: Any) -> str:
    """Return the beginning of a part of a schema, for an error message."""
    text = msgspec.json.encode(schema).decode()
    return text if len(text) <= 100 else f"{text[:100]}…"

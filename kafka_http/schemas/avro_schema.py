"""Compiles an Avro schema: to one for fastavro, and to functions between Avro's JSON encoding and fastavro's values.

fastavro takes most schemas as they come, so the specification's rules are checked here:
https://avro.apache.org/docs/1.12.0/specification/#schema-declaration. What cannot be read safely is refused as well:
its reader is in C, and follows a type without end, or counts items that take no space, as far as a few bytes tell it.
In the schema for it types have names of our own, logical types, aliases and defaults are gone, and branches of a union
that it cannot tell apart (int and long, float and double) are records of one field, whose bytes are those of the field.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import msgspec

from kafka_http.errors import InvalidSchema
from kafka_http.schemas.avro_decoders import array_decoder, decode_bytes, map_decoder, union_decoder
from kafka_http.schemas.avro_encoders import (
    Branch,
    Default,
    Filled,
    arrays,
    encode_null,
    enums,
    fixed,
    maps,
    records,
    unions,
)
from kafka_http.schemas.avro_names import check_symbols, defined_name, fields_of, shown
from kafka_http.schemas.avro_types import PRIMITIVES, AvroType, default_of, named_again, primitive

MAX_DEPTH = 100
"""Levels of types inside each other."""
_MAX_EMPTY = 16
_MAX_FIXED = 1 << 24
_ALIKE = ({"int", "long"}, {"float", "double"})


class AvroSchema:
    """Walks a schema once. The types that it has met are known to those that it is given next.

    `recursive`: the values of some type may be of any depth. `filled` counts what defaults add.
    """

    def __init__(self) -> None:
        self.recursive = False
        self.filled = Filled()
        self._named: dict[str, AvroType] = {}
        self._tags = count()
        self._depth = 0
        self._direct: list[str] = []
        self._defaults: list[Callable[[], None]] = []

    def compile(self, text: str) -> AvroType:
        """The outermost type. Raises `InvalidSchema`."""
        try:
            type_ = self._type(msgspec.json.decode(text), "")
        except msgspec.DecodeError as error:
            raise InvalidSchema(f"it is no JSON: {error}.") from None
        except RecursionError:
            raise InvalidSchema("it is nested too deeply.") from None
        for fill in self._defaults:
            fill()
        self._defaults.clear()
        return type_

    def _type(self, schema: Any, namespace: str) -> AvroType:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidSchema(f"its types are nested more than {MAX_DEPTH} levels deep.")
        type_ = self._made(schema, namespace)
        self._depth -= 1
        if type_.depth > MAX_DEPTH:
            raise InvalidSchema(f"its types are nested more than {MAX_DEPTH} levels deep.")
        return type_

    def _made(self, schema: Any, namespace: str) -> AvroType:
        if isinstance(schema, str):
            return primitive(schema) if schema in PRIMITIVES else self._known(schema, namespace)
        if isinstance(schema, list):
            return self._union(schema, namespace)
        kind = schema.get("type") if isinstance(schema, dict) else None
        if isinstance(kind, dict | list):
            return self._type(kind, namespace)
        make: Callable[[Any, str], AvroType] | None = {
            **{"record": self._record, "error": self._record, "enum": self._enum, "fixed": self._fixed},
            **{"array": self._array, "map": self._map},
        }.get(kind or "")
        if make is not None:
            return make(schema, namespace)
        if not isinstance(kind, str):
            raise InvalidSchema(f'a type is a name, a list, or an object with a "type", not {shown(schema)}.')
        return self._made(kind, namespace)

    def _known(self, name: str, namespace: str) -> AvroType:
        type_ = self._named.get(f"{namespace}.{name}") or self._named.get(name)
        if type_ is None:
            raise InvalidSchema(f"it names the type {name[:200]!r}, which nothing before that defines.")
        if type_.name in self._direct:
            raise InvalidSchema(f"the record {type_.name} contains itself, without an end.")
        self.recursive = self.recursive or type_.is_open
        return named_again(type_)

    def _define(self, schema: Mapping[str, Any], namespace: str) -> tuple[str, str]:
        """The full name of a type, and what fastavro is to call it."""
        name = defined_name(schema, namespace)
        if name in self._named:
            raise InvalidSchema(f"the type {name} is defined twice.")
        return name, f"t{len(self._named)}"

    def _record(self, schema: Mapping[str, Any], namespace: str) -> AvroType:
        name, tag = self._define(schema, namespace)
        fields = fields_of(name, schema)
        type_ = AvroType("record", name, tag, {"type": "record", "name": tag}, encode_null, is_open=True)
        self._named[name] = type_
        self._direct.append(name)
        types = {each: self._type(fields[each]["type"], name.rpartition(".")[0]) for each in fields}
        self._direct.pop()
        type_.close(types)
        if type_.empty > _MAX_EMPTY + type_.least:
            raise InvalidSchema(f"the record {name} has too many parts that take no space.")
        defaults: dict[str, Default] = {}
        encoders = {each: types[each].encode for each in fields}
        type_.encode = records(name, encoders, defaults, self.filled)
        given = {each: fields[each]["default"] for each in fields if "default" in fields[each]}
        self._defaults.append(partial(self._fill, defaults, types, given))
        return type_

    def _fill(self, defaults: dict[str, Default], types: Mapping[str, AvroType], given: Mapping[str, Any]) -> None:
        for name, value in given.items():
            default = default_of(types[name], value, self.filled)
            if default is not None:
                defaults[name] = default

    def _enum(self, schema: Mapping[str, Any], namespace: str) -> AvroType:
        name, tag = self._define(schema, namespace)
        symbols = check_symbols(name, schema)
        made = {"type": "enum", "name": tag, "symbols": symbols}
        return self._named.setdefault(name, AvroType("enum", name, tag, made, enums(symbols)))

    def _fixed(self, schema: Mapping[str, Any], namespace: str) -> AvroType:
        name, tag = self._define(schema, namespace)
        size = schema.get("size")
        if type(size) is not int or not 0 <= size <= _MAX_FIXED:
            raise InvalidSchema(f"the size of the fixed {name} is to be a whole number from 0 to {_MAX_FIXED}.")
        made = {"type": "fixed", "name": tag, "size": size}
        type_ = AvroType("fixed", name, tag, made, fixed(size), decode_bytes, least=size, empty=not size)
        return self._named.setdefault(name, type_)

    def _array(self, schema: Mapping[str, Any], namespace: str) -> AvroType:
        items = self._inside(schema, "items", namespace)
        if not items.least:
            raise InvalidSchema("the items of an array take no space, so any number of them would be the same bytes.")
        decode = items.decode and array_decoder(items.decode)
        made = {"type": "array", "items": items.schema}
        return AvroType("array", "array", "array", made, arrays(items.encode), decode, parts=(items,))

    def _map(self, schema: Mapping[str, Any], namespace: str) -> AvroType:
        inner = self._inside(schema, "values", namespace)
        decode = inner.decode and map_decoder(inner.decode)
        made = {"type": "map", "values": inner.schema}
        return AvroType("map", "map", "map", made, maps(inner.encode), decode, parts=(inner,))

    def _inside(self, schema: Mapping[str, Any], of: str, namespace: str) -> AvroType:
        if of not in schema:
            raise InvalidSchema(f"a type {schema['type']} needs {of}: {shown(schema)}.")
        with self._indirect():
            return self._type(schema[of], namespace)

    @contextmanager
    def _indirect(self) -> Iterator[None]:
        """Inside here a record may contain itself, for there may be none of it."""
        before, self._direct = self._direct, []
        yield
        self._direct = before

    def _union(self, schema: Sequence[Any], namespace: str) -> AvroType:
        with self._indirect():
            types = [self._type(each, namespace) for each in schema]
        names = {each.name for each in types}
        if len(names) < len(types) or "union" in names:
            raise InvalidSchema(f"a union has two branches of one kind, or a union as a branch: {shown(schema)}.")
        alike = set[str]().union(*(each for each in _ALIKE if each <= names))
        made = [self._tagged(each) if each.name in alike else each for each in types]
        branches = [Branch(each.name, each.tag, each.encode, each.decode) for each in made]
        encode, decode = unions(branches), union_decoder(branches)
        return AvroType("union", "union", "union", [each.schema for each in made], encode, decode, parts=made)

    def _tagged(self, type_: AvroType) -> AvroType:
        """A branch as a record of one field, so that fastavro gives its name with its value."""
        encode, decode = type_.encode, type_.decode or (lambda value: value)
        tag = f"b{next(self._tags)}"
        return AvroType(
            "record",
            type_.name,
            tag,
            {"type": "record", "name": tag, "fields": [{"name": "v", "type": type_.schema}]},
            lambda data: {"v": encode(data)},
            lambda value: decode(value["v"]),
            parts=(type_,),
        )

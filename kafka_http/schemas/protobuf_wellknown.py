"""Protobuf's well-known types: their JSON, and the .proto files that a schema may import without a reference.

Google's files are in the packages protobuf and googleapis-common-protos. Confluent's are those of its protobuf-types:
https://github.com/confluentinc/schema-registry/tree/master/protobuf-types.
JSON: https://protobuf.dev/programming-guides/json/
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from google.protobuf.descriptor import FieldDescriptor, FileDescriptor

ANY = "google.protobuf.Any"
VALUE = "google.protobuf.Value"
NULL_VALUE = "google.protobuf.NullValue"
WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
STRING_TYPES = {
    "google.protobuf.Timestamp": 'a time such as "2026-11-21T10:00:00Z"',
    "google.protobuf.Duration": 'a duration such as "1.5s"',
    "google.protobuf.FieldMask": 'names of fields such as "name,address.zip"',
}
"""Messages that are a string in JSON, and what the string must be."""
STRUCT_TYPES = {"google.protobuf.Struct": "object", "google.protobuf.ListValue": "array", VALUE: "any value"}
"""Messages that are plain JSON, and which kind of it."""
SPECIAL_TYPES = frozenset({ANY, *WRAPPERS, *STRING_TYPES, *STRUCT_TYPES})
"""Messages whose JSON is not an object of their fields."""


def message_type(field: FieldDescriptor) -> str:
    """Return the full name of the message type of a field; empty for a scalar."""
    return "" if field.message_type is None else field.message_type.full_name


def map_entry(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor] | None:
    """Return the key and the value of a map field; None for other fields."""
    entry = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        return None
    return entry.fields_by_name["key"], entry.fields_by_name["value"]


_PROTOBUF = (
    "any", "api", "descriptor", "duration", "empty", "field_mask", "source_context", "struct", "timestamp", "type",
    "wrappers",
)  # fmt: skip
_TYPE = (
    "calendar_period", "color", "date", "datetime", "dayofweek", "decimal", "expr", "fraction", "interval", "latlng",
    "localized_text", "money", "month", "phone_number", "postal_address", "quaternion", "timeofday",
)  # fmt: skip


def _google_files() -> Mapping[str, FileDescriptor]:
    names = [*(f"google.protobuf.{name}" for name in _PROTOBUF), *(f"google.type.{name}" for name in _TYPE)]
    modules = [import_module(f"{name}_pb2") for name in names]
    return {module.DESCRIPTOR.name: module.DESCRIPTOR for module in modules}


GOOGLE_FILES = _google_files()
"""Google's files by name."""

_META = """\
syntax = "proto3";
package confluent;
import "google/protobuf/descriptor.proto";
message Meta {
  string doc = 1;
  map<string, string> params = 2;
  repeated string tags = 3;
  repeated Rule rules = 4;
}
message Rule {
  string name = 1;
  string doc = 2;
  string expr = 3;
  string sql = 4;
}
extend google.protobuf.FileOptions { optional Meta file_meta = 1088; }
extend google.protobuf.MessageOptions { optional Meta message_meta = 1088; }
extend google.protobuf.FieldOptions { optional Meta field_meta = 1088; }
extend google.protobuf.EnumOptions { optional Meta enum_meta = 1088; }
extend google.protobuf.EnumValueOptions { optional Meta enum_value_meta = 1088; }
"""
_CONFLUENT_TYPE = 'syntax = "proto3"; package confluent.type;'
CONFLUENT_FILES: Mapping[str, str] = {
    "confluent/meta.proto": _META,
    "confluent/type/decimal.proto": (
        f"{_CONFLUENT_TYPE} message Decimal {{ bytes value = 1; uint32 precision = 2; int32 scale = 3; }}"
    ),
    "confluent/type/variant.proto": f"{_CONFLUENT_TYPE} message Variant {{ bytes metadata = 1; bytes value = 2; }}",
    "confluent/types/decimal.proto": 'syntax = "proto3"; import public "confluent/type/decimal.proto";',
}
"""The texts of Confluent's files by name."""


@cache
def google_file_closure(name: str) -> tuple[FileDescriptor, ...]:
    """Return one of Google's files, after the files that it imports."""
    file = GOOGLE_FILES[name]
    imported = [each for dependency in file.dependencies for each in google_file_closure(dependency.name)]
    return tuple(dict.fromkeys([*imported, file]))

"""The types that have a JSON of their own, and what else descriptors do not say in so many words.

https://protobuf.dev/programming-guides/json/
"""

from google.protobuf.descriptor import FieldDescriptor

ANY = "google.protobuf.Any"
VALUE = "google.protobuf.Value"
NULL_VALUE = "google.protobuf.NullValue"
WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
TEXTS = {
    "google.protobuf.Timestamp": 'a time such as "2026-11-21T10:00:00Z"',
    "google.protobuf.Duration": 'a duration such as "1.5s"',
    "google.protobuf.FieldMask": 'names of fields such as "name,address.zip"',
}
"""What each of them takes, which is a text in JSON."""
PLAIN_JSON = {"google.protobuf.Struct": "object", "google.protobuf.ListValue": "array", VALUE: "any value"}
HAS_JSON_OF_ITS_OWN = frozenset({ANY, *WRAPPERS, *TEXTS, *PLAIN_JSON})


def type_of(field: FieldDescriptor) -> str:
    """The full name of the message type of a field; empty for a scalar."""
    return "" if field.message_type is None else field.message_type.full_name


def entry_of(field: FieldDescriptor) -> tuple[FieldDescriptor, FieldDescriptor] | None:
    """The key and the value of a map; None for another field."""
    entry = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        return None
    return entry.fields_by_name["key"], entry.fields_by_name["value"]

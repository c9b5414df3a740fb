"""The .proto files that a schema may import without a reference to them, as Confluent's serialisers let it.

Google's come from protobuf's and googleapis-common-protos' own modules. Confluent's are those of its
`protobuf-types`: https://github.com/confluentinc/schema-registry/tree/master/protobuf-types.
"""

from collections.abc import Mapping
from functools import cache

from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    source_context_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import FileDescriptor
from google.type import (
    calendar_period_pb2,
    color_pb2,
    date_pb2,
    datetime_pb2,
    dayofweek_pb2,
    decimal_pb2,
    expr_pb2,
    fraction_pb2,
    interval_pb2,
    latlng_pb2,
    localized_text_pb2,
    money_pb2,
    month_pb2,
    phone_number_pb2,
    postal_address_pb2,
    quaternion_pb2,
    timeofday_pb2,
)

_MODULES = (
    any_pb2, api_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, source_context_pb2, struct_pb2,
    timestamp_pb2, type_pb2, wrappers_pb2,
    calendar_period_pb2, color_pb2, date_pb2, datetime_pb2, dayofweek_pb2, decimal_pb2, expr_pb2, fraction_pb2,
    interval_pb2, latlng_pb2, localized_text_pb2, money_pb2, month_pb2, phone_number_pb2, postal_address_pb2,
    quaternion_pb2, timeofday_pb2,
)  # fmt: skip
GOOGLES: Mapping[str, FileDescriptor] = {module.DESCRIPTOR.name: module.DESCRIPTOR for module in _MODULES}

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
_DECIMAL = """\
syntax = "proto3";
package confluent.type;
message Decimal {
  bytes value = 1;
  uint32 precision = 2;
  int32 scale = 3;
}
"""
_VARIANT = """\
syntax = "proto3";
package confluent.type;
message Variant {
  bytes metadata = 1;
  bytes value = 2;
}
"""
CONFLUENTS: Mapping[str, str] = {
    "confluent/meta.proto": _META,
    "confluent/type/decimal.proto": _DECIMAL,
    "confluent/type/variant.proto": _VARIANT,
    "confluent/types/decimal.proto": 'syntax = "proto3"; import public "confluent/type/decimal.proto";',
}


@cache
def googles_needed_by(name: str) -> tuple[FileDescriptor, ...]:
    """One of Google's files, after those that it imports itself."""
    file = GOOGLES[name]
    needed = [each for dependency in file.dependencies for each in googles_needed_by(dependency.name)]
    return tuple(dict.fromkeys([*needed, file]))

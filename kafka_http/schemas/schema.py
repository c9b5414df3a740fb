"""A schema as the registry has it."""

from typing import Literal

from msgspec import Struct

SchemaType = Literal["AVRO", "PROTOBUF", "JSON"]


class Reference(Struct, frozen=True):
    """Another schema that one needs. `name` is what its text calls it: a full name, a file to import, a URI."""

    name: str
    subject: str
    version: int


class Schema(Struct, frozen=True):
    """A schema under the id that stands before each message written with it. It never changes."""

    id: int
    type: SchemaType
    text: str
    references: tuple[Reference, ...] = ()

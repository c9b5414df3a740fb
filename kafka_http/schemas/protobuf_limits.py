"""How deep a Protobuf message may go, and how much memory it may take: an empty one has two bytes until it is read."""

from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from kafka_http.errors import InvalidPayload

MAX_DEPTH = 100
"""Messages inside each other: as many as Java's readers take."""
MAX_SIZE = 256 << 20
"""Bytes that a message and those inside it may take in memory."""


class Budget:
    """How deep the message lies that is written or read now, and how much memory all of them take, about."""

    __slots__ = ("depth", "size")

    def __init__(self) -> None:
        self.depth = 0
        self.size = 0

    def enter(self, size: int) -> None:
        """Go into a message of so many bytes. Raises `InvalidPayload` where it is too much, or too deep."""
        self.depth += 1
        self.size += size
        if self.depth > MAX_DEPTH:
            raise InvalidPayload(f"it is nested more than {MAX_DEPTH} messages deep")
        if self.size > MAX_SIZE:
            raise _too_large()

    def leave(self) -> None:
        self.depth -= 1


def size_of(fields: int) -> int:
    """Bytes that a message of so many fields takes, about."""
    return 64 + 16 * fields


def _too_large() -> InvalidPayload:
    return InvalidPayload(f"its messages take more than {MAX_SIZE >> 20} MiB of memory")


class MemoryCheck:
    """Tells from the bytes of a message alone whether those inside it may take too much memory.

    Each has the tag of its field before it, and the first byte of that is known but for its highest bit.
    """

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        messages = [each for file in files for each in _messages(file.message_type, f".{file.package}".rstrip("."))]
        sizes = {name: size_of(len(message.field)) for name, message in messages}
        self._sizes: dict[int, int] = {}
        for field in (field for _, message in messages for field in (*message.field, *message.extension)):
            if field.type_name in sizes:
                first = _first_byte(field)
                self._sizes[first] = max(sizes[field.type_name], self._sizes.get(first, 0))

    def check(self, data: bytes) -> None:
        """Raises `InvalidPayload`."""
        if len(data) // 2 * max(self._sizes.values(), default=0) <= MAX_SIZE:
            return
        counts = {first: data.count(first) + data.count(first | 0x80) for first in self._sizes}
        if sum(counts[first] * size for first, size in self._sizes.items()) > MAX_SIZE:
            raise _too_large()


def _messages(messages: Iterable[DescriptorProto], prefix: str) -> Iterator[tuple[str, DescriptorProto]]:
    for message in messages:
        name = f"{prefix}.{message.name}"
        yield name, message
        yield from _messages(message.nested_type, name)


def _first_byte(field: FieldDescriptorProto) -> int:
    """The low seven bits of its tag: https://protobuf.dev/programming-guides/encoding/#structure."""
    wire_type = 3 if field.type == FieldDescriptorProto.TYPE_GROUP else 2
    return (field.number << 3 | wire_type) & 0x7F

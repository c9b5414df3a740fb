"""Limits for the depth and the memory of Protobuf messages. An empty message has two bytes until it is decoded."""

import threading
from collections.abc import Iterable, Iterator

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from kafka_http.errors import InvalidPayload

MAX_DEPTH = 100
"""Messages inside each other: the limit of Java's readers."""
MAX_MEMORY = 256 << 20
"""Bytes of memory that a message may take, with those inside it."""


class MessageBudget:
    """Counts depth and memory while one message is read or written."""

    __slots__ = ("depth", "memory")

    def __init__(self) -> None:
        self.depth = 0
        self.memory = 0

    def enter(self, memory: int) -> None:
        """Begin a message of about so many bytes. Raises `InvalidPayload` if it is nested too deeply or too large."""
        self.depth += 1
        self.memory += memory
        if self.depth > MAX_DEPTH:
            raise InvalidPayload(f"the value is nested more than {MAX_DEPTH} messages deep")
        if self.memory > MAX_MEMORY:
            raise _too_large()

    def leave(self) -> None:
        """End the message that was entered last."""
        self.depth -= 1


class ThreadBudget(threading.local):
    """The budget of the message that a thread reads or writes."""

    current = MessageBudget()


def message_memory(fields: int) -> int:
    """Return about how many bytes a message of so many fields takes in memory."""
    return 64 + 16 * fields


def _too_large() -> InvalidPayload:
    return InvalidPayload(f"the messages take more than {MAX_MEMORY >> 20} MiB of memory")


class MemoryCheck:
    """Estimates the memory of a message from its bytes, before the message is decoded.

    Each message inside another follows the tag of its field. The first byte of the tag is known except for its highest
    bit, so the number of such bytes is an upper bound for the number of messages.
    """

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        messages = [each for file in files for each in _messages(file.message_type, f".{file.package}".rstrip("."))]
        sizes = {name: message_memory(len(message.field)) for name, message in messages}
        self._size_by_tag: dict[int, int] = {}
        for field in (field for _, message in messages for field in (*message.field, *message.extension)):
            if field.type_name in sizes:
                tag = _first_tag_byte(field)
                self._size_by_tag[tag] = max(sizes[field.type_name], self._size_by_tag.get(tag, 0))

    def check(self, data: bytes) -> None:
        """Raise `InvalidPayload` if the message may take too much memory."""
        if len(data) // 2 * max(self._size_by_tag.values(), default=0) <= MAX_MEMORY:
            return
        memory = sum((data.count(tag) + data.count(tag | 0x80)) * size for tag, size in self._size_by_tag.items())
        if memory > MAX_MEMORY:
            raise _too_large()


def _messages(messages: Iterable[DescriptorProto], prefix: str) -> Iterator[tuple[str, DescriptorProto]]:
    for message in messages:
        name = f"{prefix}.{message.name}"
        yield name, message
        yield from _messages(message.nested_type, name)


def _first_tag_byte(field: FieldDescriptorProto) -> int:
    """Return the low seven bits of a tag: https://protobuf.dev/programming-guides/encoding/#structure."""
    wire_type = 3 if field.type == FieldDescriptorProto.TYPE_GROUP else 2
    return (field.number << 3 | wire_type) & 0x7F

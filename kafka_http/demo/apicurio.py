"""Apicurio Registry's files: fetched from Maven Central once, unpacked once, kept in the user's cache directory."""

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path

from kafka_http.demo.maven import Artifact, fetch

REGISTRY = Artifact(
    "io.apicurio",
    "apicurio-registry-app",
    "3.3.3",
    "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63",
    "all",
    "tar.gz",
)
PRODUCT = f"Apicurio Registry {REGISTRY.version}"


def registry_files(cache: Path | None = None, remote: str | None = None, artifact: Artifact = REGISTRY) -> Path:
    """The directory that holds them (159 MB to fetch, 168 MB to keep), a progress bar on stderr meanwhile.

    It is there whole, from an archive with the right sum, or not at all. `remote` is the URL of another repository
    than Maven Central. Raises `DemoError`.
    """
    cache = cache or user_cache_path("kafka_http")
    unpacked = cache / f"{artifact.artifact}-{artifact.version}"
    if not unpacked.is_dir():
        fetch([artifact], PRODUCT, cache, lambda _, archive: _unpack(archive, unpacked), remote)
    return unpacked


def _unpack(archive: Path, unpacked: Path) -> None:
    aside = archive.parent / "unpacked"
    try:
        with tarfile.open(archive) as members:
            members.extraction_filter = getattr(tarfile, "data_filter", None)  # Debian 12's Python has none
            members.extractall(aside, members=_harmless(members))  # noqa: S202  each is looked at
    except tarfile.TarError as error:
        raise OSError(f"its archive is not as it should be ({error})") from error
    try:
        aside.rename(unpacked)
    except OSError:
        if not unpacked.is_dir():  # another demo was faster
            raise


def _harmless(members: Iterable[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    """All of them, as long as they are files and directories below the one they are unpacked to."""
    for member in members:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} has no place in it")
        yield member

"""Apache Kafka's jars, by their Maven coordinates, each with the SHA-256 sum that it must have.

`jars.txt` is what `org.apache.kafka:kafka_2.13:4.3.1` and, resolved apart from it,
`org.apache.logging.log4j:log4j-slf4j-impl:2.25.4` need at run time.
"""

import os
from importlib import resources
from pathlib import Path

from kafka_http.demo.errors import DemoError
from kafka_http.demo.maven import Artifact, fetch

KAFKA_VERSION = "4.3.1"
_PRODUCT = f"Apache Kafka {KAFKA_VERSION}"


def listed_jars() -> list[Artifact]:
    lines = resources.files("kafka_http.demo").joinpath("jars.txt").read_text("ascii").splitlines()
    return [_parse(line) for line in lines]


def _parse(line: str) -> Artifact:
    sha256, coordinates = line.split()
    group, artifact, version = coordinates.split(":")
    return Artifact(group, artifact, version, sha256)


def kafka_jars(repository: Path | None = None, remote: str | None = None) -> list[Path]:
    """The paths of all jars, those that are missing fetched from Maven Central, a progress bar on stderr meanwhile.

    They are kept in Maven's local repository (`M2_REPO`, else `~/.m2/repository`); a jar is put there whole and with
    the right sum, or not at all. `remote` is the URL of another repository to fetch from. Raises `DemoError` where a
    sum differs, of a jar fetched or one that was there, and where Maven Central does not answer.
    """
    where = repository or _local_repository()
    jars = listed_jars()
    missing = [jar for jar in jars if not jar.path_in(where).exists()]
    for jar in set(jars) - set(missing):
        _check_kept(jar, where)
    if missing:
        fetch(missing, _PRODUCT, where, lambda jar, fetched: _keep(fetched, jar.path_in(where)), remote)
    return [jar.path_in(where) for jar in jars]


def _local_repository() -> Path:
    return Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")


def _check_kept(jar: Artifact, repository: Path) -> None:
    path = jar.path_in(repository)
    if not jar.is_whole(path):
        raise DemoError(
            f"{jar.file_name} in Maven's local repository is not the jar that {_PRODUCT} needs "
            f"(its SHA-256 sum differs): delete {path} and start again, it is then fetched anew."
        )


def _keep(fetched: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    fetched.replace(kept)

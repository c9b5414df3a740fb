"""Apache Kafka's jars: downloaded from Maven Central once and verified by their SHA-256 sums.

`jars.txt` lists the jars that `org.apache.kafka:kafka_2.13:4.3.1` and, resolved separately,
`org.apache.logging.log4j:log4j-slf4j-impl:2.25.4` need at run time.
"""

import os
from importlib import resources
from pathlib import Path

from kafka_http.demo.local_resources import DemoError
from kafka_http.demo.maven import Artifact, download

KAFKA_VERSION = "4.3.1"
_PRODUCT = f"Apache Kafka {KAFKA_VERSION}"


def listed_jars() -> list[Artifact]:
    """The jars in `jars.txt`."""
    lines = resources.files("kafka_http.demo").joinpath("jars.txt").read_text("ascii").splitlines()
    return [_parse(line) for line in lines]


def _parse(line: str) -> Artifact:
    sha256, coordinates = line.split()
    group, artifact, version = coordinates.split(":")
    return Artifact(group, artifact, version, sha256)


def kafka_jars(repository: Path | None = None, remote: str | None = None) -> list[Path]:
    """Return the paths of all jars. Download the missing ones, with a progress bar on stderr.

    The jars are in Maven's local repository (`M2_REPO`, else `~/.m2/repository`). Only complete jars with the right
    sum get there. `remote` is the URL of a repository to use in place of Maven Central. Raises `DemoError` if a sum
    differs, of a downloaded or an existing jar, or if a download fails.
    """
    local = repository or Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")
    jars = listed_jars()
    missing = [jar for jar in jars if not jar.path_in(local).exists()]
    for jar in set(jars) - set(missing):
        _check(jar, local)
    if missing:
        download(missing, _PRODUCT, local, lambda jar, file: _move(file, jar.path_in(local)), remote)
    return [jar.path_in(local) for jar in jars]


def _check(jar: Artifact, repository: Path) -> None:
    path = jar.path_in(repository)
    if not jar.has_right_sum(path):
        raise DemoError(
            f"{jar.file_name} in Maven's local repository is not the jar that {_PRODUCT} needs: its SHA-256 sum "
            f"differs. Delete {path} and start again to download it."
        )


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(target)

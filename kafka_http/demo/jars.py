"""Apache Kafka's jars, by their Maven coordinates, each with the SHA-256 sum that it must have.

`jars.txt` is what `org.apache.kafka:kafka_2.13:4.3.1` and, resolved apart from it,
`org.apache.logging.log4j:log4j-slf4j-impl:2.25.4` need at run time.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from kafka_http.demo.errors import DemoError

KAFKA_VERSION = "4.3.1"


class Jar(NamedTuple):
    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def path_in(self, repository: Path) -> Path:
        """Where Maven keeps the jar below a local repository."""
        return repository.joinpath(*self.group.split("."), self.artifact, self.version, self.file_name)


def listed_jars() -> list[Jar]:
    lines = resources.files("kafka_http.demo").joinpath("jars.txt").read_text("ascii").splitlines()
    return [_parse(line) for line in lines]


def _parse(line: str) -> Jar:
    sha256, coordinates = line.split()
    group, artifact, version = coordinates.split(":")
    return Jar(group, artifact, version, sha256)


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
        _fetch(missing, where, remote)
    return [jar.path_in(where) for jar in jars]


def _local_repository() -> Path:
    return Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")


def _check_kept(jar: Jar, repository: Path) -> None:
    path = jar.path_in(repository)
    if _sha256(path) != jar.sha256:
        raise DemoError(
            f"{jar.file_name} in Maven's local repository is not the jar that Apache Kafka {KAFKA_VERSION} needs "
            f"(its SHA-256 sum differs): delete {path} and start again, it is then fetched anew."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(jars: Sequence[Jar], repository: Path, remote: str | None) -> None:
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=repository, prefix=".incoming-") as incoming:
            for jar in _with_progress(jars):
                _keep(jar, _download(jar, Path(incoming), remote), repository)
    except ModuleNotFoundError as error:
        raise DemoError(
            f"The demo needs the Python package {error.name}: pip install 'kafka_http[demo]' brings all it needs."
        ) from error
    except OSError as error:  # not the network's errors: those have become a DemoError
        raise DemoError(f"Cannot keep Apache Kafka's jars in {repository}: {error.strerror or error}.") from error


def _with_progress(jars: Sequence[Jar]) -> Iterable[Jar]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    bar: Iterable[Jar] = tqdm(jars, desc=f"Fetching Apache Kafka {KAFKA_VERSION}", unit="jar", leave=False)
    return bar


def _keep(jar: Jar, fetched: Path, repository: Path) -> None:
    if _sha256(fetched) != jar.sha256:
        raise DemoError(
            f"{jar.file_name}, as it came from Maven Central, is not the jar that Apache Kafka {KAFKA_VERSION} needs "
            "(its SHA-256 sum differs): something between here and there changes it. Nothing of it was kept."
        )
    jar.path_in(repository).parent.mkdir(parents=True, exist_ok=True)
    fetched.replace(jar.path_in(repository))


def _download(jar: Jar, incoming: Path, remote: str | None) -> Path:
    """Fetch into a directory apart: jgo writes straight to the final name, and takes what is there for whole."""
    from jgo.maven import MavenContext
    from requests import RequestException

    context = MavenContext(repo_cache=incoming, remote_repos={"remote": remote} if remote else None)
    try:
        return context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except (RequestException, RuntimeError) as error:  # RuntimeError: any status but 200
        raise DemoError(
            f"Cannot fetch {jar.file_name}: Maven Central does not answer as it should. "
            f"The jars of Apache Kafka {KAFKA_VERSION} are fetched once, for which the network is needed; "
            "start again when it is there."
        ) from error

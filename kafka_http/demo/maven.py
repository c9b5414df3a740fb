"""What the demo fetches from Maven Central, each by its coordinates and with the SHA-256 sum that it must have."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from kafka_http.demo.errors import DemoError
from kafka_http.errors import how_to_install

_OnBytes = Callable[[int], None]


class Artifact(NamedTuple):
    group: str
    artifact: str
    version: str
    sha256: str
    classifier: str = ""
    packaging: str = "jar"

    @property
    def file_name(self) -> str:
        return "-".join(filter(None, (self.artifact, self.version, self.classifier))) + f".{self.packaging}"

    def path_in(self, repository: Path) -> Path:
        """Where Maven keeps it below a local repository."""
        return repository.joinpath(*self.group.split("."), self.artifact, self.version, self.file_name)

    def is_whole(self, path: Path) -> bool:
        """Whether the file has the sum that it must have."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def fetch(
    artifacts: Sequence[Artifact],
    product: str,
    directory: Path,
    keep: Callable[[Artifact, Path], object],
    remote: str | None = None,
) -> None:
    """Fetch each into a directory beside and let `keep` move it to its place in `directory`; a bar on stderr meanwhile.

    Nothing whose sum differs gets to `keep`. `remote` is the URL of another repository than Maven Central. Raises
    `DemoError`, which names the `product`.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory, prefix=".incoming-") as incoming:
            for artifact in artifacts if len(artifacts) == 1 else _counted(artifacts, product):
                fetched = _download(artifact, product, Path(incoming), remote, in_bytes=len(artifacts) == 1)
                _check(artifact, product, fetched)
                keep(artifact, fetched)
    except ModuleNotFoundError as error:
        raise DemoError(f"The demo needs the Python package {error.name}. {how_to_install('demo')}") from error
    except OSError as error:  # not the network's errors: those have become a DemoError
        raise DemoError(f"Cannot keep {product} in {directory}: {error.strerror or error}.") from error


def _counted(artifacts: Sequence[Artifact], product: str) -> Iterator[Artifact]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    yield from tqdm(artifacts, desc=f"Fetching {product}", unit="jar", leave=False)


@contextmanager
def _in_bytes(file_name: str, size: int) -> Iterator[_OnBytes]:
    from tqdm import tqdm

    bar: Any
    with tqdm(desc=f"Fetching {file_name}", total=size, unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update


def _download(artifact: Artifact, product: str, incoming: Path, remote: str | None, in_bytes: bool) -> Path:
    """jgo writes straight to the final name, and takes what is there for whole: hence a directory apart."""
    from jgo.maven import MavenContext
    from jgo.maven import PythonResolver as Resolver
    from requests import RequestException

    shown: Callable[[str, int], AbstractContextManager[_OnBytes]] | None = _in_bytes if in_bytes else None
    repositories = {"remote": remote} if remote else None
    context = MavenContext(Resolver(progress_callback=shown), repo_cache=incoming, remote_repos=repositories)
    component = context.project(artifact.group, artifact.artifact).at_version(artifact.version)
    try:
        return component.artifact(artifact.classifier, artifact.packaging).resolve()
    except (RequestException, RuntimeError) as error:  # RuntimeError: any status but 200
        raise DemoError(
            f"Cannot fetch {artifact.file_name}: Maven Central does not answer as it should. "
            f"{product} is fetched once, for which the network is needed; start again when it is there."
        ) from error


def _check(artifact: Artifact, product: str, fetched: Path) -> None:
    if not artifact.is_whole(fetched):
        raise DemoError(
            f"{artifact.file_name}, as it came from Maven Central, is not the one that {product} needs "
            "(its SHA-256 sum differs): something between here and there changes it. Nothing of it was kept."
        )

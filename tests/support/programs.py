"""Programs that some tests need."""

import os
import shutil

import pytest


def program(name: str) -> str:
    """Return the path of a program. If it is missing, skip the test, or fail it where `CI` is set."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        if "CI" in os.environ:
            pytest.fail(f"{name} is missing")
        pytest.skip(f"{name} is missing")
    return found

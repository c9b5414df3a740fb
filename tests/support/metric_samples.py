"""Reads the metrics of a server in the text format of Prometheus."""

import os
import shutil
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    """The values by name and labels."""
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def total(text: str, name: str, **labels: str) -> float:
    """The sum of the samples of this name that have these labels."""
    return sum(
        value for (found, has), value in samples(text).items() if found == name and labels.items() <= dict(has).items()
    )


def program(name: str) -> str:
    """The path of a program of Prometheus. Without it the test is skipped, or fails where CI is set."""
    found = shutil.which(name)
    if found is None:
        if "CI" in os.environ:
            pytest.fail(f"{name} is missing")
        pytest.skip(f"{name} is missing")
    return found

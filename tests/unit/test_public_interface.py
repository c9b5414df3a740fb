"""What `import kafka_http` offers, and what it costs."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import kafka_http
from kafka_http import app, config


def test_public_names_are_those_of_their_modules() -> None:
    assert kafka_http.create_app is app.create_app
    assert kafka_http.Config is config.Config
    assert set(kafka_http.__all__) == {"Config", "create_app", "__version__"}


def test_version_is_that_of_the_distribution() -> None:
    assert kafka_http.__version__ == version("kafka_http")


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(kafka_http, "nothing")  # noqa: B009  mypy knows that it is not there


def test_import_of_the_package_imports_no_library() -> None:
    program = (
        "import kafka_http, sys; print(*{'flask', 'kafka', 'gunicorn', 'msgspec', 'markdown_it'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "\n"


def test_application_is_made_from_the_public_names(tmp_path: Path) -> None:
    made = kafka_http.create_app(kafka_http.Config(daemon="inline", data_dir=tmp_path))

    assert made.test_client().get("/health").status_code == 200
    made.extensions["kafka_http"].close(1)


def test_import_of_the_application_does_not_import_the_markdown_library() -> None:
    """It takes memory that a worker needs only when somebody reads the manual."""
    program = "import sys, kafka_http.app; print('markdown_it' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"

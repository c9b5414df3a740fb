"""gunicorn or granian from within: `run` starts it, `worker.Worker` is the worker class for `gunicorn -k` as well."""

from kafka_http.server.application import run
from kafka_http.server.errors import CannotServe

__all__ = ["CannotServe", "run"]

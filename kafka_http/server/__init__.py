"""gunicorn from within: `run` starts it, `worker.Worker` is the worker class for `gunicorn -k` as well."""

from kafka_http.server.application import CannotServe, run

__all__ = ["CannotServe", "run"]

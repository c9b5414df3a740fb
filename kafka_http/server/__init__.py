"""gunicorn from within: `run` starts it, `worker.Worker` is the worker class for `gunicorn -k` as well."""

from kafka_http.server.gunicorn_application import CannotServe, check_config, run

__all__ = ["CannotServe", "check_config", "run"]

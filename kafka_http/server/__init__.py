"""The HTTP server: gunicorn with a worker class for slow clients, streams and requests without a thread.

`run` starts it. The worker class works with `gunicorn -k kafka_http.server.worker.Worker` as well.
"""

from kafka_http.server.gunicorn_application import CannotServe, check_config, run

__all__ = ["CannotServe", "check_config", "run"]

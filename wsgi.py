"""The WSGI application: `gunicorn wsgi:app`. Its settings come from the environment and the TOML file that it names."""

from kafka_http.app import create_app
from kafka_http.config.sources import load_config
from kafka_http.logs import configure_logging

config = load_config()
configure_logging(config.log_level)
app = create_app(config)

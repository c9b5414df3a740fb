"""The WSGI application: `gunicorn wsgi:app`. Its settings come from the environment and the TOML file that it names."""

from kafka_http.app import create_app
from kafka_http.config.sources import load_config
from kafka_http.logs import configure_logging

config = load_config()
configure_logging(config.log_level, config.log_format)
app = create_app(config)

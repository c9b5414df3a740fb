"""What a WSGI server loads: `gunicorn wsgi:app`. Settings come from the environment and the TOML file it names."""

from kafka_http.app import create_app
from kafka_http.config.sources import load_config
from kafka_http.logs import configure_logging

config = load_config()
configure_logging(config.log_level)
app = create_app(config)

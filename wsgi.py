"""What a WSGI server loads: `gunicorn wsgi:app`. Settings come from the environment and the TOML file it names."""

from kafka_http.app import create_app
from kafka_http.config import load_config

app = create_app(load_config())

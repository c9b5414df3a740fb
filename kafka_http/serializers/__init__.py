"""The documented home of what plug-ins import. The code is in `kafka_http.schemas`."""

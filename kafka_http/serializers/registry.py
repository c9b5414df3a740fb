"""The documented import of the schema registry client, for plug-ins."""

from kafka_http.schemas.registry import SchemaRegistry

__all__ = ["SchemaRegistry"]

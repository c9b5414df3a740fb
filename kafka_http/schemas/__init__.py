"""Formats: serializers with and without schemas, the schema registry client, plug-ins."""

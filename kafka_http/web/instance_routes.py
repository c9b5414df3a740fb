"""GET /instances: the consumer instances of the v2 API, which has no call that lists them."""

from typing import Any

from flask import Blueprint, Response, request

from kafka_http.consumers.instance_service import InstanceService
from kafka_http.records import InstanceDefinition
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.responses import json_response
from kafka_http.web.url_paths import new_blueprint


class InstanceRoutes:
    """The view of all instances, for operators and the console."""

    def __init__(self, instances: InstanceService) -> None:
        self._instances = instances

    def blueprint(self) -> Blueprint:
        return new_blueprint("instances", {"/instances": {"GET": self.list}})

    def list(self) -> Response:
        """GET /instances: all consumer instances and what they read."""
        QueryParameters(request.args, ())
        return json_response({"instances": [_instance_object(each) for each in self._instances.list_instances()]})


def _instance_object(instance: InstanceDefinition) -> dict[str, Any]:
    shown: dict[str, Any] = {"group": instance.group, "name": instance.name, "format": instance.settings.format}
    if instance.pattern is not None:
        shown["pattern"] = instance.pattern
    elif instance.topics:
        shown["topics"] = instance.topics
    elif instance.partitions:
        shown["partitions"] = [each._asdict() for each in instance.partitions]
    return shown

"""The consumer instances that there are, for whoever looks after the server: the v2 API has no call that lists them."""

from typing import Any

from flask import Blueprint, Response, request

from kafka_http.consumers.instance_service import InstanceService
from kafka_http.records import InstanceDefinition
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.responses import json_response


class InstanceRoutes:
    """The view of all instances."""

    def __init__(self, instances: InstanceService) -> None:
        self._instances = instances

    def blueprint(self) -> Blueprint:
        blueprint = Blueprint("instances", __name__)
        blueprint.add_url_rule("/instances", view_func=self.list)
        return blueprint

    def list(self) -> Response:
        """GET /instances: the consumer instances of the v2 API, and what they read."""
        QueryParameters(request.args, ())
        return json_response({"instances": [_shown(each) for each in self._instances.list_instances()]})


def _shown(instance: InstanceDefinition) -> dict[str, Any]:
    shown: dict[str, Any] = {"group": instance.group, "name": instance.name, "format": instance.settings.format}
    if instance.pattern is not None:
        shown["pattern"] = instance.pattern
    elif instance.topics:
        shown["topics"] = instance.topics
    elif instance.partitions:
        shown["partitions"] = [each._asdict() for each in instance.partitions]
    return shown

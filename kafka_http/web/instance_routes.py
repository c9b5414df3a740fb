"""GET /instances: the consumer instances of the v2 API, which has no call that lists them."""

from typing import Any

from flask import Blueprint, Response, request

from kafka_http.consumers.instance_service import ANY_CALLER, InstanceCaller, InstanceService
from kafka_http.records import InstanceDefinition
from kafka_http.security.access import Access
from kafka_http.web.access_check import request_access
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
        """GET /instances: the consumer instances that the principal may use, and what they read."""
        QueryParameters(request.args, ())
        access = request_access()
        access.require_listing()
        instances = [each for each in self._instances.list_instances() if access.may_use(each.owner)]
        return json_response({"instances": [_instance_object(each, access) for each in instances]})


def instance_caller() -> InstanceCaller:
    """Return the sender of the current request, for the `InstanceService`."""
    access = request_access()
    if access.is_unrestricted:
        return ANY_CALLER
    return InstanceCaller(access.owner, access.visible_owner is None, access.rights.read)


def _instance_object(instance: InstanceDefinition, access: Access) -> dict[str, Any]:
    """Return the JSON form of an instance, without topics that `access` may not describe (any more)."""
    shown: dict[str, Any] = {"group": instance.group, "name": instance.name, "format": instance.settings.format}
    if instance.owner:
        shown["owner"] = instance.owner
    if instance.pattern is not None:
        shown["pattern"] = instance.pattern
    elif instance.topics:
        shown["topics"] = access.visible(instance.topics)
    elif instance.partitions:
        visible = frozenset(access.visible({each.topic for each in instance.partitions}))
        shown["partitions"] = [each._asdict() for each in instance.partitions if each.topic in visible]
    return shown

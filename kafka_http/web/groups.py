"""The consumer groups of the cluster: GET /consumers, GET and DELETE /consumers/<group>.

They use the errors and media types of the REST Proxy v2 API, whose paths these are.
"""

from typing import Any

from flask import Blueprint, Response, request

from kafka_http.administration import DescribedGroup
from kafka_http.consumers.group_progress import GroupProgress, PartitionProgress
from kafka_http.errors import GroupHasMembers
from kafka_http.records import GroupMember
from kafka_http.web.access_check import request_access
from kafka_http.web.negotiation import v2_response_type
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.responses import flask_response, render_v2_error, v2_response
from kafka_http.web.rest_v2.consumer_bodies import check_group
from kafka_http.web.url_paths import Routes, new_blueprint


class GroupRoutes:
    """The views of consumer groups. They show the groups that the principal may use."""

    def __init__(self, groups: GroupProgress) -> None:
        self._groups = groups

    def blueprint(self) -> Blueprint:
        routes: Routes = {"": {"GET": self.list}, "/<group>": {"GET": self.describe, "DELETE": self.delete}}
        groups = new_blueprint("groups", routes, prefix="/consumers")
        groups.before_request(_check_accept)
        return groups

    def list(self) -> Response:
        """GET /consumers: all groups. With `?topic=`, those with offsets on the topic, and these offsets."""
        topic = QueryParameters(request.args, ("topic",)).text("topic")
        names = request_access().rights.consumer
        if topic is None:
            return v2_response({"groups": [_summary(each) for each in self._groups.groups(names)]})
        listed = [
            _summary(group) | {"offsets": [_offset_object(group, each) for each in progress]}
            for group, progress in self._groups.of_topic(topic, names)
        ]
        return v2_response({"groups": listed})

    def describe(self, group: str) -> Response:
        """GET /consumers/<group>: the group's members, and its offsets on topics that may be described."""
        QueryParameters(request.args, ())
        check_group(group)
        visible = request_access().visible
        found, progress = self._groups.describe(group, visible)
        members = [
            _member_object(each, frozenset(visible({tp.topic for tp in each.partitions}))) for each in found.members
        ]
        offsets = [{"topic": each.topic, **_offset_object(found, each)} for each in progress]
        head = {"group": group, "type": found.type, "state": found.state, "assignor": found.assignor}
        return v2_response({**head, "members": members, "offsets": offsets})

    def delete(self, group: str) -> Response:
        """DELETE /consumers/<group>: delete the group and its offsets, unless it has members."""
        QueryParameters(request.args, ())
        check_group(group)
        try:
            self._groups.delete(group)
        except GroupHasMembers as error:
            return flask_response(render_v2_error(error, request.headers.get("Accept"), **error.fields))
        return Response(status=204)


def _check_accept() -> None:
    """Reject an unsatisfiable Accept header before doing any work."""
    v2_response_type(request.headers.get("Accept"))


def _summary(group: DescribedGroup) -> dict[str, Any]:
    return {"group": group.group, "type": group.type, "state": group.state, "members": len(group.members)}


def _offset_object(group: DescribedGroup, progress: PartitionProgress) -> dict[str, Any]:
    name = "start" if group.type == "share" else "committed"
    return {"partition": progress.partition, name: progress.offset, "end": progress.end, "lag": progress.lag}


def _member_object(member: GroupMember, visible: frozenset[str]) -> dict[str, Any]:
    return {
        "member": member.member_id,
        "client": member.client_id,
        "host": member.host,
        "instance": member.instance_id,
        "partitions": [each._asdict() for each in sorted(member.partitions) if each.topic in visible],
    }

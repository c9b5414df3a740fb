"""GET /access: who the sender of the request is, and what it may do on this server."""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, Response, request

from kafka_http.name_filter import NameFilter
from kafka_http.security.access import Access
from kafka_http.security.access_rules import NAMED_RIGHTS
from kafka_http.web.access_check import request_access
from kafka_http.web.query_parameters import QueryParameters
from kafka_http.web.responses import json_response
from kafka_http.web.url_paths import new_blueprint

_ALL = [["*"]]


class AccessRoutes:
    """The view of the sender's own rights."""

    def __init__(self, formats: Sequence[str], *, has_topic_admin: bool) -> None:
        """`formats` are those that work on this server. `has_topic_admin` is the setting `topic_admin`."""
        self._formats = list(formats)
        self._has_topic_admin = has_topic_admin

    def blueprint(self) -> Blueprint:
        return new_blueprint("access", {"/access": {"GET": self.show}})

    def show(self) -> Response:
        """GET /access: the principal, its rights, and the formats that work."""
        QueryParameters(request.args, ())
        access = access_to_dict(request_access(), has_topic_admin=self._has_topic_admin)
        return json_response({"access": access, "formats": self._formats})


def access_to_dict(access: Access, *, has_topic_admin: bool) -> dict[str, Any]:
    """Return the JSON form of an access. `principal` is None if authentication is off.

    `topic_admin` is whether it may create, change and delete topics: the setting decides only without authentication.
    """
    names = {right: _filter_to_dict(getattr(access.rights, right)) for right in (*NAMED_RIGHTS, "describe")}
    return {
        "principal": access.principal.name or None,
        "scheme": access.principal.scheme,
        "groups": sorted(access.principal.groups),
        "rights": {
            **names,
            "admin": access.rights.admin,
            "topic_admin": has_topic_admin if access.is_unrestricted else access.rights.admin,
        },
    }


def _filter_to_dict(names: NameFilter) -> dict[str, Any]:
    """Return `include` and `exclude`. A name matches a pattern of each list in `include`, and none in `exclude`."""
    return {"include": [list(each) for each in names.include] or _ALL, "exclude": list(names.exclude)}

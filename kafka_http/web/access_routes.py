"""GET /access: who the sender of the request is, and what it may do."""

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

    def blueprint(self) -> Blueprint:
        return new_blueprint("access", {"/access": {"GET": self.show}})

    def show(self) -> Response:
        """GET /access: the principal and its rights."""
        QueryParameters(request.args, ())
        return json_response({"access": access_to_dict(request_access())})


def access_to_dict(access: Access) -> dict[str, Any]:
    """Return the JSON form of an access. `principal` is None if authentication is off."""
    names = {right: _filter_to_dict(getattr(access.rights, right)) for right in (*NAMED_RIGHTS, "describe")}
    return {
        "principal": access.principal.name or None,
        "scheme": access.principal.scheme,
        "groups": sorted(access.principal.groups),
        "rights": {**names, "admin": access.rights.admin},
    }


def _filter_to_dict(names: NameFilter) -> dict[str, Any]:
    """Return `include` and `exclude`. A name matches a pattern of each list in `include`, and none in `exclude`."""
    return {"include": [list(each) for each in names.include] or _ALL, "exclude": list(names.exclude)}

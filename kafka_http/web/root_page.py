"""GET /: an empty object for clients of the v2 API, a page with links for browsers."""

from html import escape

from flask import Blueprint, Response, request

from kafka_http.config import Config
from kafka_http.errors import NotAcceptable
from kafka_http.web.console.console_routes import SECURITY_HEADERS
from kafka_http.web.negotiation import JSON, Accept, v2_response_type
from kafka_http.web.request_head import root_path
from kafka_http.web.responses import RenderedResponse, flask_response, json_bytes

_XHTML = "application/xhtml+xml"
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>kafka_http</title>
<link rel="icon" href="data:,">
</head>
<body>
<h1>kafka_http</h1>
<p>Apache Kafka behind HTTP.</p>
<ul>
{links}
</ul>
</body>
</html>
"""


class RootRoutes:
    """The view of the root. Browsers list `application/xhtml+xml` in Accept, clients of the v2 API do not."""

    def __init__(self, config: Config) -> None:
        self._base_url = config.base_url
        links = {
            "/docs": "Manual",
            "/docs/api": "All calls, to try out",
            "/messages": "Topics",
            "/health": "Health",
            "/ready": "Ready: does a Kafka broker respond?",
        }
        self._links = {"/console": "Console", **links} if config.console else links

    def blueprint(self) -> Blueprint:
        root = Blueprint("root", __name__)
        root.add_url_rule("/", view_func=self.root)
        return root

    def root(self) -> Response:
        """GET /: `{}`, or the page."""
        accept = request.headers.get("Accept")
        if Accept.parse(accept).types.get(_XHTML):
            response = Response(self._page(), content_type="text/html; charset=utf-8", headers=SECURITY_HEADERS)
        else:
            response = flask_response(RenderedResponse(200, {}, _object_type(accept), json_bytes({})))
        response.headers["Vary"] = "Accept"
        return response

    def _page(self) -> str:
        prefix = root_path(request, self._base_url)
        links = "\n".join(
            f'<li><a href="{escape(prefix + path)}">{text}</a></li>' for path, text in self._links.items()
        )
        return _PAGE.format(links=links)


def _object_type(accept: str | None) -> str:
    try:
        return v2_response_type(accept)
    except NotAcceptable:
        return JSON

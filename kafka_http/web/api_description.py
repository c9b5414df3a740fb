"""The description of the API: GET /openapi.json, and the page at /docs/api that shows it."""

from functools import lru_cache
from html import escape
from importlib.resources import files
from importlib.util import find_spec

import msgspec
from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from kafka_http.config import Config
from kafka_http.errors import how_to_install
from kafka_http.web.authority import link_base
from kafka_http.web.console.console_routes import SECURITY_HEADERS
from kafka_http.web.request_head import root_path
from kafka_http.web.responses import json_response

_VIEWER = "flask_swagger_ui"
"""The package of the extra `docs` that ships Swagger UI. Only its files are used."""
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_SCRIPT = b"""\
const target = document.getElementById("viewer")
let isLoaded = false

// Swagger UI fills in the examples, also those of optional parameters, which exclude each other.
function adapted(document) {
  for (const parameter of Object.values(document.components.parameters)) {
    if (parameter.required || !("example" in parameter)) continue
    parameter.description += ` Example: ${parameter.example}`
    delete parameter.example
  }
  document.externalDocs = { description: "The manual", url: new URL("../docs", location).href }
  return document
}

SwaggerUIBundle({
  domNode: target,
  url: target.dataset.url,
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  filter: true,
  validatorUrl: null,
  responseInterceptor(response) {
    if (!isLoaded && response.ok) response.text = JSON.stringify(adapted(JSON.parse(response.text)))
    isLoaded = true
    return response
  },
})
"""
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>The API - kafka_http</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{root}/docs/{style}">
</head>
<body>
{content}
</body>
</html>
"""
_SHOWN = """\
<div id="viewer" data-url="{root}/openapi.json"></div>
<script src="{root}/docs/api/swagger-ui-bundle.js"></script>
<script src="{root}/docs/api/viewer.js"></script>"""
_NOT_INSTALLED = """\
<main>
<h1>The API</h1>
<p>The page that shows the API is not installed. {how}</p>
<p>The description itself is at <a href="{root}/openapi.json">/openapi.json</a>, and all calls are in
<a href="{root}/docs">the manual</a>.</p>
</main>"""


class ApiDescription:
    """The views of the description. Any thread may call."""

    def __init__(self, config: Config) -> None:
        self._base_url = config.base_url

    def blueprint(self) -> Blueprint:
        openapi = Blueprint("openapi", __name__)
        openapi.add_url_rule("/openapi.json", view_func=self.document)
        openapi.add_url_rule("/docs/api", view_func=self.viewer)
        openapi.add_url_rule("/docs/api/<path:name>", view_func=self.viewer_file)
        return openapi

    def document(self) -> Response:
        """GET /openapi.json: the description in OpenAPI 3.1, with the URL of this server."""
        return _revalidated(json_response(_document(link_base(request.environ, self._base_url))))

    def viewer(self) -> Response:
        """GET /docs/api: a page that shows the description, or says how to install what it needs."""
        root = escape(root_path(request, self._base_url))
        is_installed = find_spec(_VIEWER) is not None
        content = (_SHOWN if is_installed else _NOT_INSTALLED).format(root=root, how=escape(how_to_install("docs")))
        page = _PAGE.format(root=root, style="api/swagger-ui.css" if is_installed else "manual.css", content=content)
        return Response(page, content_type="text/html; charset=utf-8", headers=SECURITY_HEADERS)

    def viewer_file(self, name: str) -> Response:
        """GET /docs/api/<name>: a file of the page."""
        data = _SCRIPT if name == "viewer.js" else viewer_files().get(name)
        if data is None:
            raise NotFound
        content_type = _TYPES[name.rpartition(".")[2]]
        return _revalidated(Response(data, content_type=content_type, headers=SECURITY_HEADERS))


def _revalidated(response: Response) -> Response:
    """Let the client keep a response and ask each time whether it has changed. Make it a 304 if it has not."""
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag(weak=True)  # the same for all content codings
    response.make_conditional(request)
    return response


@lru_cache(16)
def _document(server_url: str) -> bytes:
    """Return the description as JSON. `server_url` may be empty."""
    document = msgspec.json.decode((files("kafka_http.web") / "openapi.json").read_bytes())
    document["servers"] = [{"url": server_url or "/"}]
    return msgspec.json.encode(document)


@lru_cache(1)
def viewer_files() -> dict[str, bytes]:
    """Return the files of Swagger UI that the page needs. Empty if it is not installed."""
    if find_spec(_VIEWER) is None:
        return {}
    directory = files(_VIEWER) / "dist"
    return {each: (directory / each).read_bytes() for each in ("swagger-ui-bundle.js", "swagger-ui.css")}

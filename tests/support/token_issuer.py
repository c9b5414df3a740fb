"""An issuer of JSON Web Tokens: it makes keys and tokens, and a small server publishes its key set."""

import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.support.planted_secrets import plant

ISSUER = "https://issuer.example.org"
AUDIENCE = "kafka"
_CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def new_private_key(algorithm: str, bits: int = 2048) -> Any:
    """Return a new private key for an algorithm such as RS256."""
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    return rsa.generate_private_key(65537, bits)


def public_pem(private_key: Any) -> str:
    return str(private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii")


def private_pem(private_key: Any) -> str:
    return plant(str(private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "ascii"))


def jwk(private_key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    """Return the public key as an entry of a key set, without `alg`."""
    entry = jwt.get_algorithm_by_name(algorithm).to_jwk(private_key.public_key(), as_dict=True)
    return {name: value for name, value in {**entry, **more}.items() if name != "key_ops"}


def claims(**changes: Any) -> dict[str, Any]:
    """Return the claims of a token that is valid for a minute. A change to None removes a claim."""
    now = int(time.time())
    all_claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 60, **changes}
    return {name: value for name, value in all_claims.items() if value is not None}


def token(private_key: Any, algorithm: str, kid: str | None = None, **changes: Any) -> str:
    """Return a signed token. `changes` are those of `claims`."""
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(claims(**changes), private_key, algorithm, headers)


def unsigned(header: Any, payload: Any, signature: bytes = b"") -> str:
    """Return a token made by hand."""
    parts = [json.dumps(each).encode() if isinstance(each, dict) else each for each in (header, payload)]
    return ".".join(str(urlsafe_b64encode(each).rstrip(b"="), "ascii") for each in (*parts, signature))


class KeySetServer:
    """Publishes `keys`. `requests` counts the fetches; `status` and `body` replace the answer.

    Responses wait until `hold` is set.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: list[Any] = []
        self.requests = 0
        self.status = 200
        self.body: bytes | None = None
        self.hold = threading.Event()
        self.hold.set()

    def answer(self) -> bytes:
        self.requests += 1
        self.hold.wait(30)
        return json.dumps({"keys": self.keys}).encode() if self.body is None else self.body


@contextmanager
def running_key_set_server() -> Iterator[KeySetServer]:
    """Serve on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = server.answer()
            self.send_response(server.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = KeySetServer(f"http://127.0.0.1:{http.server_port}/keys")
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.hold.set()
            http.shutdown()
            thread.join()

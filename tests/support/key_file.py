"""A file of API keys for tests: one key for each principal."""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from kafka_http.security.api_keys import new_key
from tests.support.planted_secrets import plant

CHALLENGE = 'Bearer realm="kafka_http"'


class KeyFile:
    """The file that the setting `auth.keys` names. A change takes effect at a reload."""

    def __init__(self, path: Path, principals: Iterable[str], narrowed: Mapping[str, str] | None = None) -> None:
        """`narrowed` are lines of TOML in the entries of some principals."""
        self.path = path
        self._narrowed = narrowed or {}
        self._keys = {name: plant(new_key()) for name in principals}
        self._write()

    def revoke(self, principal: str) -> None:
        """Remove the entry. The key is still sent."""
        self._write(without=principal)

    def headers(self, principal: str) -> dict[str, str]:
        """Return the headers of a request of a principal. `nobody` has no credentials."""
        return {} if principal == "nobody" else {"X-Api-Key": self._keys[principal]}

    def _write(self, without: str = "") -> None:
        entries = [
            f'["{name}"]\nsha256 = "{plant(sha256(key.encode()).hexdigest())}"\n{self._narrowed.get(name, "")}\n'
            for name, key in self._keys.items()
            if name != without
        ]
        self.path.write_text("".join(entries))

"""Origins of web pages: which of them may call this server, and whether a request comes from a page of another one."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_NAMES = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
ANY = "*"


class Origins:
    """A set of origins: those of `cors_origins`, or those for which an API key is. Immutable.

    >>> "https://a.example.org" in Origins(["https://*.example.org"])
    True
    """

    def __init__(self, patterns: Sequence[str], *, credentials: bool = False, max_age: int = 0) -> None:
        """`patterns` are exact origins, `https://*.example.org` for all below a domain, and `*`.

        With `*`, pages of all origins may read, but none is in this set. `credentials` and `max_age` are the settings
        `cors_credentials` and `cors_max_age`.
        """
        self.is_on = bool(patterns)
        """Whether pages of any other origin may call."""
        self.allows_reading = ANY in patterns
        """Whether pages of all origins may read."""
        self.credentials = credentials
        self.max_age = max_age
        origins = [origin_of(each) for each in patterns if each != ANY]
        self._exact = frozenset(each for each in origins if ANY not in each)
        self._below = [tuple(each.split(ANY, 1)) for each in origins if ANY in each]

    def __contains__(self, origin: str) -> bool:
        """Whether an `Origin` header names one of these origins."""
        origin = origin_of(origin)
        return origin in self._exact or any(_is_below(origin, *each) for each in self._below)

    def is_foreign(self, site: str | None, origin: str | None, own: Callable[[], str]) -> bool:
        """Whether a page of an origin that is neither in this set nor this server's sent a request.

        `site` and `origin` are the headers `Sec-Fetch-Site` and `Origin`; `own` returns this server's origin.
        """
        if origin is not None and origin in self:
            return False
        if site in {"same-origin", "none"}:  # "none": started by the user, as in the address bar
            return False
        return site in {"cross-site", "same-site"} or (origin is not None and origin_of(origin) != own())


NO_ORIGINS = Origins(())
key_origins = lru_cache(maxsize=256)(Origins)
"""Returns the `Origins` of an API key for its patterns, a tuple."""


def origin_of(url: str) -> str:
    """Return the origin of a URL as browsers send it: in lower case, without the default port.

    >>> origin_of("https://Kafka.Example.org:443/rest")
    'https://kafka.example.org'
    """
    scheme, separator, rest = url.lower().partition("://")
    authority = rest.partition("/")[0]
    return f"{scheme}{separator}{authority.removesuffix(_DEFAULT_PORTS.get(scheme, ' '))}"


def _is_below(origin: str, before: str, behind: str) -> bool:
    """Whether an origin matches a pattern such as `https://*.example.org`, which is split at the asterisk."""
    if not (origin.startswith(before) and origin.endswith(behind)):
        return False
    return _NAMES.fullmatch(origin[len(before) : len(origin) - len(behind)]) is not None

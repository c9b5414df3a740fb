"""The access of streams and uploads, which may last longer than the right to them."""

import time

from kafka_http.errors import Forbidden, KafkaHttpError, Unauthenticated, Unavailable
from kafka_http.security.access import Access, Right
from kafka_http.security.check_point import CheckPoint

_LAPSED_SECONDS = 4.0
"""Time between checks of credentials that count after their expiry: those of a user whose password was verified."""
_UNKNOWN_SECONDS = 3.0
"""Time for which a stream continues while the access rules are not known. A lost right ends it within 5 s."""


class StreamAccess:
    """The right of an open stream or upload on its topic. It is checked again after a reload and at an expiry.

    The view creates it. One thread at a time calls; nothing blocks.
    """

    __slots__ = ("_access", "_check_point", "_next_check", "_right", "_topic", "_unknown_since")

    def __init__(self, check_point: CheckPoint, access: Access, right: Right, topic: str) -> None:
        """`access` is that of the request, which has the right now."""
        self._check_point = check_point
        self._access = access
        self._right = right
        self._topic = topic
        self._next_check = 0.0
        self._unknown_since: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether `check` has something to do. Cheap."""
        access, check_point = self._access, self._check_point
        if check_point.is_current(access):
            return False
        return access.generation != check_point.generation or time.monotonic() >= self._next_check

    def check(self) -> None:
        """Check the right, if that is due. The stream must end if this raises.

        Raises `Unauthenticated`, `Forbidden`, `Unavailable`.
        """
        if not self.is_due:
            return
        self._next_check = time.monotonic() + _LAPSED_SECONDS
        try:
            self._renew()
        except KafkaHttpError as error:
            access = self._access
            what = f"to continue ({self._right}, topic {self._topic})"
            self._check_point.refusals.log(error, what, access.principal.name, access.address)
            raise

    def _renew(self) -> None:
        try:
            access = self._check_point.renew(self._access)
        except Unavailable:
            now = time.monotonic()
            self._unknown_since = now if self._unknown_since is None else self._unknown_since
            if now - self._unknown_since >= _UNKNOWN_SECONDS:
                raise
            return
        self._unknown_since = None
        if access is None:
            raise Unauthenticated("The credentials of this request are no longer valid.")
        if not access.may(self._right, self._topic):
            if access.principal.scheme == "anonymous":
                raise Unauthenticated(f"This request now needs credentials with the right {self._right}.")
            raise Forbidden(access.principal.name, self._right, "topic", self._topic, effect="")
        self._access = access

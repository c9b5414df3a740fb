"""`access_rules = "kafka"`: the access rules are the ACLs of the cluster, which a thread reads every 30 s."""

import logging
import os
import time
from collections.abc import Callable
from threading import Event, Lock, Thread

from kafka_http.acls import Acl
from kafka_http.backoff import Backoff
from kafka_http.broker_protocols import Acls
from kafka_http.config import ConfigError
from kafka_http.errors import BrokerUnavailable, KafkaHttpError, NotAuthorized, RetriableBrokerError, Unavailable
from kafka_http.logs import LogOnce
from kafka_http.security.access import Rights
from kafka_http.security.access_rules import Explanation
from kafka_http.security.kafka_acls import AclRules
from kafka_http.security.principal import Principal

log = logging.getLogger(__name__)

REFRESH_SECONDS = 30.0
_LOG_SECONDS = 300.0
_NO_AUTHORIZER = 'access_rules = "kafka" needs a cluster with an authorizer: the brokers have no authorizer.class.name.'
_NOT_PERMITTED = (
    'access_rules = "kafka" needs the permission to describe ACLs: allow this server\'s principal Describe on the '
    "cluster (kafka-acls --add --cluster --operation Describe). {}"
)


class AclCache:
    """The `Rules` from the cluster's ACLs. Any thread may call; only `check` and `load` block.

    `create_app` creates it before the fork. A thread of each worker reads the ACLs, from `start` to `close`. While
    Kafka cannot be reached, the known ACLs remain valid. If the cluster no longer shows them, nobody has rights.
    """

    def __init__(self, acls: Acls) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called by the thread when other rights may hold than before."""
        self._acls = acls
        self._known: frozenset[Acl] | None = None
        self._rules: AclRules | None = None
        self._read_at = float("-inf")
        self._problem = "The cluster's ACLs are not known yet."
        self._once = LogOnce(log, _LOG_SECONDS)
        self._process = 0
        self._starting = Lock()
        self._wake = Event()
        self._is_closed = False

    def rights_of(self, principal: Principal, address: str) -> Rights:
        """Return the rights of a principal. Raises `Unavailable` while the ACLs are not known."""
        self.start()
        if (rules := self._rules) is None:
            raise Unavailable(f"{self._problem} Nothing was done.")
        return rules.rights_of(principal, address)

    def explain(self, principal: Principal, address: str) -> list[Explanation]:
        """Return what the ACLs say about a principal. Raises `Unavailable`."""
        if (rules := self._rules) is None:
            raise Unavailable(self._problem)
        return rules.explain(principal, address)

    def check(self, acls: Acls) -> None:
        """Read the ACLs with another client than the workers', before the fork. Blocks for some seconds at most.

        Raises `ConfigError` if the cluster does not show them. Logs a warning if it cannot be reached.
        """
        try:
            self.load(acls)
        except (BrokerUnavailable, RetriableBrokerError) as error:
            log.warning("The cluster's ACLs cannot be read: %s Until then, all requests get a 503.", error.message)
        except KafkaHttpError as error:
            raise ConfigError(error.message) from None

    def start(self) -> None:
        """Start the thread of this process, unless it runs. After a fork, ACLs that are out of date are unknown."""
        if self._process == os.getpid():
            return
        with self._starting:
            if self._process == os.getpid():
                return
            if time.monotonic() - self._read_at > REFRESH_SECONDS:
                self._known = self._rules = None
            self._wake = Event()
            self._process = os.getpid()
            Thread(target=self._read_repeatedly, name="ACL reader", daemon=True).start()

    def refresh(self) -> None:
        """Let the thread read the ACLs now. Does not wait for it."""
        self._wake.set()

    def close(self) -> None:
        """Stop the thread. It may still read once."""
        self._is_closed = True
        self._wake.set()

    def _read_repeatedly(self) -> None:
        backoff = Backoff(0.5, REFRESH_SECONDS)
        delay = max(0.0, self._read_at + REFRESH_SECONDS - time.monotonic()) if self._rules else 0.0
        while True:
            self._wake.wait(delay)
            self._wake.clear()
            if self._is_closed:
                return
            try:
                self.load(self._acls)
                backoff.reset()
                delay = REFRESH_SECONDS
            except Exception as error:
                self._note_failure(error)
                delay = backoff.next()

    def load(self, source: Acls) -> None:
        """Read the ACLs now. Blocks. Raises `NotAuthorized`, and `Unavailable` without an authorizer."""
        try:
            described = source.describe_acls()
        except NotAuthorized as error:
            raise NotAuthorized(_NOT_PERMITTED.format(error.message)) from error
        if described is None:
            raise Unavailable(_NO_AUTHORIZER)
        self._read_at = time.monotonic()
        if self._once.clear():
            log.info("The cluster's ACLs are known again.")
        self._replace(frozenset(described))

    def _replace(self, known: frozenset[Acl] | None) -> None:
        if known != self._known:
            self._rules = None if known is None else AclRules(sorted(known))
            self._known = known
            self.on_change()

    def _note_failure(self, error: Exception) -> None:
        """Keep the known ACLs if Kafka cannot be reached. After any other failure, nothing is allowed."""
        is_outage = isinstance(error, BrokerUnavailable | RetriableBrokerError)
        reason = error.message if isinstance(error, KafkaHttpError) else type(error).__name__
        if not is_outage or self._rules is None:
            self._problem = f"The cluster's ACLs are not known: {reason}"
            self._replace(None)
        self._once.warning("The cluster's ACLs cannot be read: %s", reason)

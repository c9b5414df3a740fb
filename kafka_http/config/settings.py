"""The settings: one frozen dataclass with a field for each setting. `sources.load_config` builds it."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from msgspec import Meta
from platformdirs import user_data_path

MIB = 1024 * 1024


class ConfigError(ValueError):
    """A setting is wrong. The message names the setting, its source and what would be right."""


class Network(str):
    """An IP address or a network, such as 10.0.0.0/8."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        ip_network(text)
        return super().__new__(cls, text)


_NAME = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}$)({_NAME}\.)*(?!(0x[0-9a-f]*|\d+)$){_NAME}", re.ASCII)
"""A host name in lower case. Its last label is not a number, because clients would read it as an address."""


class Host(str):
    """A host name, `*.example.org` for all names below a domain, an IP address or a network; in lower case."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        text = text.lower()
        if not HOST_NAME.fullmatch(text.removeprefix("*.")):
            ip_network(text)
        return super().__new__(cls, text)


PORT = r"(6553[0-5]|655[0-2]\d|65[0-4]\d{2}|6[0-4]\d{3}|[1-5]\d{4}|\d{1,4})"
"""A regular expression of port numbers."""
HostPort = Annotated[
    str,
    Meta(pattern=rf"^(\[[0-9a-fA-F:.]+\]|[^\s:/,\[\]]+):{PORT}$", description="HOST:PORT, such as 127.0.0.1:8082"),
]
OptionalHostPort = Annotated[
    str,
    Meta(
        pattern=rf"^((\[[0-9a-fA-F:.]+\]|[^\s:/,\[\]]+):{PORT})?$",
        description="HOST:PORT, such as 127.0.0.1:9100, or empty",
    ),
]
QueueAttempts = Annotated[int, Meta(ge=2, le=9, description="a whole number from 2 to 9")]
Count = Annotated[int, Meta(ge=1, description="a whole number of at least 1")]
Bytes = Annotated[int, Meta(ge=1024, description="a number of bytes, at least 1024")]
MinFree = Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="a number of bytes, or 0 for no limit")]
Memory = Annotated[int, Meta(ge=0, description="a number of bytes, or 0")]
Seconds = Annotated[float, Meta(ge=0.1, le=3600, description="a number of seconds from 0.1 to 3600")]
LongSeconds = Annotated[float, Meta(ge=0, le=604800, description="a number of seconds from 0 to 604800")]
WholeSeconds = Annotated[int, Meta(ge=0, le=3600, description="a whole number of seconds from 0 to 3600")]
Retention = Annotated[float, Meta(ge=60, le=30 * 86400, description="a number of seconds from 60 to 2592000")]
Switch = Annotated[bool, Meta(description="true or false")]
Level = Annotated[
    Literal["debug", "info", "warning", "error", "critical"],
    Meta(description="one of debug, info, warning, error, critical"),
]
LogFormat = Annotated[Literal["text", "json"], Meta(description="text or json")]
Servers = Annotated[tuple[HostPort, ...], Meta(min_length=1, description="HOST:PORT,… such as kafka1:9092,kafka2:9092")]
Networks = Annotated[tuple[Network, ...], Meta(description="IP addresses or networks, such as 10.0.0.0/8,::1")]
Hosts = Annotated[
    tuple[Host, ...], Meta(description="host names, *.example.org, IP addresses or networks, separated by commas")
]
Secrets = Annotated[
    tuple[Annotated[str, Meta(min_length=16)], ...],
    Meta(description="secrets of at least 16 characters, separated by commas"),
]
Directory = Annotated[Path, Meta(description="a path")]
BaseUrl = Annotated[
    str, Meta(pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?$", description="a URL such as https://kafka.example.org/rest")
]
Origins = Annotated[
    tuple[Annotated[str, Meta(pattern=rf"^(\*|https?://((\*\.)?[a-zA-Z0-9._-]+|\[[0-9a-fA-F:]+\])(:{PORT})?)$")], ...],
    Meta(description="origins such as https://app.example.org or https://*.example.org, or *, separated by commas"),
]
Placement = Annotated[Literal["process", "inline"], Meta(description="process or inline")]
WebServer = Annotated[Literal["gunicorn"], Meta(description="gunicorn (granian was removed)")]
StoreUrl = Annotated[
    str,
    Meta(
        pattern=r"^(postgresql(\+psycopg)?://[^\s]+)?$",
        description="a URL such as postgresql://user:password@host:5432/name, or empty",
    ),
]
AccessRulesSource = Annotated[Literal["settings", "kafka"], Meta(description="settings or kafka")]
OptionalFile = Annotated[str, Meta(description="a path, or empty")]
Text = Annotated[str, Meta(description="a text")]
TlsVersion = Annotated[Literal["1.2", "1.3"], Meta(description="1.2 or 1.3")]
Reset = Annotated[Literal["earliest", "latest"], Meta(description="earliest or latest")]
Section = Annotated[Mapping[str, Any], Meta(description="a table of settings")]
Sections = Annotated[Mapping[str, Mapping[str, Any]], Meta(description="a table of settings for each name")]


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only be reached from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def available_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_data_dir() -> Path:
    return user_data_path("kafka_http") / "{port}"


@dataclass(frozen=True)
class Config:
    """The values of all settings.

    `sources` is not a setting. It maps each setting that was given to its source, also under a deprecated name.
    """

    __slots__ = ("__dict__", "_load")  # msgspec passes what is in `__dict__` on to the daemon

    bootstrap_servers: Annotated[Servers, "addresses of Kafka brokers to connect to first"] = ("localhost:9092",)
    bind: Annotated[HostPort, "address and port that the server listens on"] = "127.0.0.1:8082"
    server: Annotated[WebServer, "has no effect; it will be removed in 2.0"] = "gunicorn"
    workers: Annotated[Count, "number of worker processes"] = field(default_factory=available_cores)
    threads: Annotated[Count, "maximum number of requests that a worker handles in threads at the same time"] = 32
    fast_path: Annotated[Switch, "publish and call queues without a thread, where the request allows it"] = True
    timeout: Annotated[Seconds, "maximum time of a publish, in seconds"] = 10.0
    keepalive: Annotated[
        WholeSeconds, "seconds that an idle connection stays open; a proxy in front needs a shorter time"
    ] = 75
    max_body_bytes: Annotated[Bytes, "maximum size of a request body, and of a message, in bytes"] = 64 * MIB
    max_records: Annotated[Count, "maximum number of records in a request; more are a 413"] = 100_000
    max_in_flight: Annotated[
        Bytes, "maximum bytes of request bodies that a worker holds, plus 800 for each record in them; more are a 429"
    ] = 256 * MIB
    min_body_rate: Annotated[
        Memory, "minimum bytes per second of a request body after its first 10 seconds; less is a 408"
    ] = 1024
    max_page_bytes: Annotated[Bytes, "maximum size of a page, in bytes, even if a request asks for more"] = 64 * MIB
    max_answers_in_flight: Annotated[
        Bytes, "maximum bytes of pages that a worker prepares and sends; at the limit pages are smaller, or a 503"
    ] = 256 * MIB
    max_read_ahead: Annotated[
        Memory, "maximum bytes that a worker keeps for one second if it fetched more than a page; 0: none"
    ] = 16 * MIB
    max_streams: Annotated[Count, "maximum number of streams of a worker; more are a 503"] = 1000
    stream_keepalive: Annotated[Seconds, "seconds without messages after which a stream sends a keep-alive"] = 15.0
    auto_create_topics: Annotated[Switch, "let a publish create a missing topic, if the brokers allow it"] = False
    topic_admin: Annotated[
        Switch, "let clients create, change and delete topics; with authentication the right admin decides"
    ] = False
    data_dir: Annotated[Directory, "directory of this node's data; {port} stands for the port of bind"] = field(
        default_factory=_default_data_dir
    )
    console: Annotated[Switch, "serve a web page at /console to browse topics, publish and acknowledge"] = False
    access_log: Annotated[Switch, "write a line for each request to stdout"] = False
    log_level: Annotated[Level, "lowest level that is logged to stderr: debug, info, warning, error, critical"] = "info"
    log_format: Annotated[LogFormat, "form of the log lines: text, or json with an object for each line"] = "text"
    metrics_bind: Annotated[
        OptionalHostPort, "another address for /metrics, which needs no credentials there; empty: that of bind"
    ] = ""
    trusted_proxies: Annotated[Networks, "addresses whose X-Forwarded-* and Forwarded headers are trusted"] = (
        Network("127.0.0.0/8"),
        Network("::1"),
    )
    base_url: Annotated[BaseUrl, "base of the links in responses; empty: from the request and its proxy headers"] = ""
    allowed_hosts: Annotated[Hosts, "host names that clients may use for a server on a loopback address"] = ()
    cors_origins: Annotated[
        Origins, "origins of other web pages that may call this server: exact, https://*.example.org, or * to read"
    ] = ()
    cors_credentials: Annotated[Switch, "let pages of cors_origins send cookies and HTTP authentication"] = False
    cors_max_age: Annotated[WholeSeconds, "seconds that a browser remembers the answer to a preflight request"] = 600
    require_auth: Annotated[
        Switch, "refuse to start without authentication on an address that other hosts can reach"
    ] = False
    access_rules: Annotated[
        AccessRulesSource, "where the rules come from: settings ([access]) or kafka (the ACLs of the cluster)"
    ] = "settings"
    tls_cert: Annotated[OptionalFile, "certificate of the server with its chain, PEM; empty: no TLS"] = ""
    tls_key: Annotated[OptionalFile, "private key of the certificate, PEM; empty: in the same file"] = ""
    tls_key_password: Annotated[Text, "password of the private key"] = field(default="", repr=False)
    tls_client_ca: Annotated[OptionalFile, "trusted certificates of clients, PEM; empty: no client certificates"] = ""
    tls_client_required: Annotated[Switch, "reject clients without a certificate"] = False
    tls_min_version: Annotated[TlsVersion, "lowest version of TLS: 1.2 or 1.3"] = "1.2"
    daemon: Annotated[
        Placement, "where consumer instances live: process (the node's daemon) or inline (a single worker)"
    ] = "process"
    store_url: Annotated[
        StoreUrl, "database that the nodes share: postgresql://user@host/name; empty: SQLite in data_dir"
    ] = field(default="", repr=False)
    node_url: Annotated[BaseUrl, "URL of this node for other nodes on the same store; empty: http://<bind>"] = ""
    node_tls_ca: Annotated[OptionalFile, "trusted certificates of other nodes with an https node_url, PEM"] = ""
    outbox_max_bytes: Annotated[
        Bytes, "maximum bytes of messages that a node has accepted (202) but not published; more are a 429"
    ] = 256 * MIB
    outbox_min_free: Annotated[
        MinFree, "free bytes on the disk of data_dir below which publishing later is a 503; empty: 64 MiB, at most 5 %"
    ] = None
    task_retention: Annotated[Retention, "seconds that a task is kept after its end"] = 86400.0
    max_consumer_instances: Annotated[Count, "maximum number of consumer instances of a node; more are a 503"] = 1000
    consumer_idle_timeout: Annotated[Seconds, "seconds without a request after which a consumer instance is closed"] = (
        300.0
    )
    queue_attempts: Annotated[
        QueueAttempts, "deliveries of a message of a new queue before it is dropped or a dead letter: 2 to 9"
    ] = 5
    consumer_auto_offset_reset: Annotated[
        Reset, "where an instance without a committed offset starts: earliest or latest"
    ] = "earliest"
    idempotency_retention: Annotated[Retention, "seconds that an Idempotency-Key is remembered"] = 86400.0
    callback_secret: Annotated[
        Secrets, "secrets that all sign each callback; empty: the server creates one and keeps it in data_dir"
    ] = field(default=(), repr=False)
    callback_allow: Annotated[
        Hosts, "hosts that callbacks may reach at private addresses, too: names, *.example.org, addresses, networks"
    ] = ()
    callback_hosts: Annotated[Hosts, "the only hosts that callbacks may reach; empty: all public hosts"] = ()
    callback_timeout: Annotated[Seconds, "seconds that a receiver has to answer a callback"] = 10.0
    callback_retry_for: Annotated[LongSeconds, "seconds that a failed callback is retried; 0: no retries"] = 3600.0
    callback_workers: Annotated[
        Count, "maximum number of callbacks at the same time, at most half of them to one host"
    ] = 8
    # The sections may hold passwords, so the repr does not show them.
    kafka: Annotated[Section, "kafka-python's settings for all clients: security_protocol, sasl_…, ssl_…"] = field(
        default_factory=dict, repr=False
    )
    producer: Annotated[Section, "settings of the producer and of its connections; they override kafka"] = field(
        default_factory=dict, repr=False
    )
    consumer: Annotated[Section, "kafka-python's settings for reading; they override kafka"] = field(
        default_factory=dict, repr=False
    )
    admin: Annotated[Section, "kafka-python's settings for the admin client; they override kafka"] = field(
        default_factory=dict, repr=False
    )
    schema_registry: Annotated[Section, "the schema registry for avro, protobuf and jsonschema: url, …"] = field(
        default_factory=dict, repr=False
    )
    serializers: Annotated[Sections, "settings of each serializer, by its name"] = field(
        default_factory=dict, repr=False
    )
    topics: Annotated[Sections, "default formats of topics, by a pattern of their names"] = field(default_factory=dict)
    auth: Annotated[Section, "authentication: basic, keys, jwt, mtls, proxy_header, anonymous"] = field(
        default_factory=dict
    )
    access: Annotated[Sections, "rights, by a pattern of principals or @group"] = field(default_factory=dict)
    limits: Annotated[Sections, "limits, by a pattern of principals"] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        path = str(self.data_dir.expanduser()).replace("{port}", str(self.port))
        object.__setattr__(self, "data_dir", Path(path))

    def loaded_with(self, load: "Callable[[], Config]") -> Self:
        """Remember how these settings were loaded, for `loaded_again`. Return this object."""
        object.__setattr__(self, "_load", load)
        return self

    def loaded_again(self) -> "Config":
        """Return the settings as the file says now. Environment and flags are those of the start.

        Settings that a program has made or changed stay as they are. Raises `ConfigError`.
        """
        load: Callable[[], Config] | None = getattr(self, "_load", None)
        return self if load is None else load()

    @property
    def host(self) -> str:
        """The host of `bind`, an IPv6 address without its brackets."""
        return self.bind.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.bind.rpartition(":")[2])


class Setting(NamedTuple):
    """A field of `Config` that can be set.

    `expected` describes the values that it accepts, `type` is its type without constraints, `hint` with them.
    """

    name: str
    help: str
    expected: str
    type: Any
    hint: Any

    @property
    def is_section(self) -> bool:
        return get_origin(self.type) is Mapping

    @property
    def depth(self) -> int:
        """The number of names below a section that lead to a value: its key, or a table's name and a key in it."""
        if not self.is_section:
            return 0
        return 2 if get_origin(get_args(self.type)[1]) is Mapping else 1

    @property
    def is_list(self) -> bool:
        return get_origin(self.type) is tuple


def settings_of(holder: type) -> Iterator[Setting]:
    """Yield the settings that a class declares: its annotated fields."""
    for name, hint in get_type_hints(holder, include_extras=True).items():
        if get_origin(hint) is Annotated:
            type_, *annotations = get_args(hint)
            expected = next(each.description for each in annotations if isinstance(each, Meta) and each.description)
            yield Setting(name, annotations[-1], expected, type_, hint)


SETTINGS: Mapping[str, Setting] = {each.name: each for each in settings_of(Config)}

RENAMED_SETTINGS: Mapping[str, str] = {"threadless_publish": "fast_path"}
"""Old names that all sources accept until 2.0, and the new names."""


def deprecation_warnings(config: Config) -> Iterator[str]:
    """A sentence for each deprecated setting that is given."""
    for old, new in RENAMED_SETTINGS.items():
        if source := config.sources.get(old):
            yield f"{old} is now {new}; the old name will be removed in 2.0. Its source: {source}."
    if source := config.sources.get("server"):
        yield f"The setting server ({source}) has no effect: gunicorn is the only server."


_FILES = frozenset(("tls_key", "auth", "auth.keys", "auth.basic", "auth.jwt.public_key"))
_SECRET_WORDS = frozenset(("pw", "pwd", "auth", "authorization", "pem"))
_SECRET_PART = re.compile(r"passw|passphrase|secret|token|credential|apikey|privatekey")
_PUBLIC_WORDS = frozenset(("file", "path", "url", "uri", "ttl", "provider", "location", "format", "type"))
"""A name with such a last word does not contain a secret: `key_format`, `token_url`."""


def is_secret(name: str) -> bool:
    """Whether the value of the setting with this dotted name must not be shown.

    The names in [topics], [access] and [limits] are patterns, and files are named by their paths.
    """
    if name.startswith(("topics.", "access.", "limits.")) or name in _FILES:
        return False
    key = name.rpartition(".")[2]
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower())
    if not words or words[-1] in _PUBLIC_WORDS:
        return False
    has_secret_word = words[-1] == "key" or not _SECRET_WORDS.isdisjoint(words)
    return bool(has_secret_word or _SECRET_PART.search("".join(words)))


_URL_PASSWORD = re.compile(r"""(://[^/@\s:"']*):(?:(?!://)[^\s"'])*@""")
_QUERY_PASSWORD = re.compile(r"""([?&][^=&\s]*(?:passw|secret|token)[^=&\s]*=)[^&\s"']*""", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Hide the passwords in the URLs of a text."""
    return _QUERY_PASSWORD.sub(r"\1(hidden)", _URL_PASSWORD.sub(r"\1:(hidden)@", text))

"""The settings: one frozen dataclass, one field a setting. `settings_sources.py` puts one together."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_origin, get_type_hints

from msgspec import Meta
from platformdirs import user_data_path

MIB = 1024 * 1024


class ConfigError(ValueError):
    """A setting is wrong. The message is a sentence for the user: setting, source, what would be right."""


class Network(str):
    """An IP address or a network, such as 10.0.0.0/8."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        ip_network(text)
        return super().__new__(cls, text)


_NAME = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}$)({_NAME}\.)*(?!(0x[0-9a-f]*|\d+)$){_NAME}", re.ASCII)
"""A host's name in lower case. One whose last label is a number would be taken for an address."""


class Host(str):
    """A host's name, `*.example.org` for all names below one, an IP address or a network; in lower case."""

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
Count = Annotated[int, Meta(ge=1, description="a whole number of at least 1")]
Bytes = Annotated[int, Meta(ge=1024, description="a number of bytes, at least 1024")]
MinFree = Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="a number of bytes, 0 for none")]
Memory = Annotated[int, Meta(ge=0, description="a number of bytes, 0 for none")]
Seconds = Annotated[float, Meta(ge=0.1, le=3600, description="a number of seconds from 0.1 to 3600")]
LongSeconds = Annotated[float, Meta(ge=0, le=604800, description="a number of seconds from 0 to 604800")]
WholeSeconds = Annotated[int, Meta(ge=0, le=3600, description="a whole number of seconds from 0 to 3600")]
Retention = Annotated[float, Meta(ge=60, le=30 * 86400, description="a number of seconds from 60 to 2592000")]
Switch = Annotated[bool, Meta(description="true or false")]
Level = Annotated[
    Literal["debug", "info", "warning", "error", "critical"],
    Meta(description="one of debug, info, warning, error, critical"),
]
Servers = Annotated[tuple[HostPort, ...], Meta(min_length=1, description="HOST:PORT,… such as kafka1:9092,kafka2:9092")]
Networks = Annotated[tuple[Network, ...], Meta(description="IP addresses or networks, such as 10.0.0.0/8,::1")]
Hosts = Annotated[
    tuple[Host, ...], Meta(description="host names, *.example.org, IP addresses or networks, commas between several")
]
Secrets = Annotated[
    tuple[Annotated[str, Meta(min_length=16)], ...],
    Meta(description="texts of at least 16 characters, commas between several"),
]
Directory = Annotated[Path, Meta(description="a path")]
BaseUrl = Annotated[
    str, Meta(pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?$", description="a URL such as https://kafka.example.org/rest")
]
Origins = Annotated[
    tuple[Annotated[str, Meta(pattern=rf"^https?://((\*\.)?[a-zA-Z0-9._-]+|\[[0-9a-fA-F:]+\])(:{PORT})?$")], ...],
    Meta(description="origins such as https://app.example.org, or https://*.example.org, commas between several"),
]
Placement = Annotated[Literal["process", "inline"], Meta(description="process or inline")]
WebServer = Annotated[Literal["gunicorn"], Meta(description="gunicorn only (granian was removed)")]
StoreUrl = Annotated[
    str,
    Meta(
        pattern=r"^(postgresql(\+psycopg)?://[^\s]+)?$",
        description="a URL such as postgresql://user:password@host:5432/name, or nothing",
    ),
]
Reset = Annotated[Literal["earliest", "latest"], Meta(description="earliest or latest")]
Section = Annotated[Mapping[str, Any], Meta(description="a table of settings")]
Sections = Annotated[Mapping[str, Mapping[str, Any]], Meta(description="a table of settings for each name")]


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is of this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _own_directory() -> Path:
    return user_data_path("kafka_http") / "{port}"


@dataclass(frozen=True)
class Config:
    """What can be set. `sources` is no setting: it maps each setting that was given to where it came from."""

    bootstrap_servers: Annotated[Servers, "Kafka brokers to ask for the others"] = ("localhost:9092",)
    bind: Annotated[HostPort, "address the server listens on"] = "127.0.0.1:8082"
    server: Annotated[WebServer, "has no effect; it will be removed in 2.0"] = "gunicorn"
    workers: Annotated[Count, "worker processes"] = field(default_factory=_cores)
    threads: Annotated[Count, "requests that a worker serves at the same time"] = 32
    threadless_publish: Annotated[Switch, "take plain publishes without a thread that waits for Kafka"] = True
    timeout: Annotated[Seconds, "seconds a publish may take until its answer"] = 10.0
    keepalive: Annotated[WholeSeconds, "seconds an idle connection stays open; a proxy in front should take less"] = 75
    max_body_bytes: Annotated[Bytes, "largest request body, and largest message handed to Kafka"] = 64 * MIB
    max_records: Annotated[Count, "records that one request may have; beyond them 413"] = 100_000
    max_in_flight: Annotated[
        Bytes, "bytes of request bodies, and 800 for each record in them, that a worker holds before it answers 429"
    ] = 256 * MIB
    min_body_rate: Annotated[
        Memory, "bytes a second that a request body needs after its first 10 seconds; below them 408"
    ] = 1024
    max_page_bytes: Annotated[Bytes, "most that one read brings, whatever its max_bytes asks for"] = 64 * MIB
    max_answers_in_flight: Annotated[
        Bytes, "bytes of pages that a worker prepares and sends; beyond them pages are smaller, or 503"
    ] = 256 * MIB
    max_read_ahead: Annotated[
        Memory, "bytes a worker keeps, for a second, of what it fetched for a reader beyond a page"
    ] = 16 * MIB
    max_streams: Annotated[Count, "streams that a worker holds; beyond them 503"] = 1000
    stream_keepalive: Annotated[Seconds, "seconds of silence after which a stream sends a sign of life"] = 15.0
    auto_create_topics: Annotated[Switch, "let a publish create its topic where the brokers allow it"] = False
    data_dir: Annotated[Directory, "directory of this node's own data; {port} is the bind port"] = field(
        default_factory=_own_directory
    )
    console: Annotated[Switch, "serve a page at /console to look at topics, publish and acknowledge"] = False
    access_log: Annotated[Switch, "write a line a request to stdout"] = False
    log_level: Annotated[Level, "how much is logged to stderr: debug, info, warning, error or critical"] = "info"
    trusted_proxies: Annotated[Networks, "addresses whose X-Forwarded-* and Forwarded headers are believed"] = (
        Network("127.0.0.0/8"),
        Network("::1"),
    )
    base_url: Annotated[BaseUrl, "start of the links in answers; empty: from the request and its proxy headers"] = ""
    allowed_hosts: Annotated[Hosts, "names that clients may use for a server on a loopback address"] = ()
    cors_origins: Annotated[Origins, "origins of other web pages that may publish and acknowledge"] = ()
    daemon: Annotated[
        Placement, "where consumer instances live: process, the node's daemon, or inline, in a single worker"
    ] = "process"
    store_url: Annotated[
        StoreUrl, "database of the nodes' state: postgresql://user@host/name; empty: SQLite in data_dir"
    ] = field(default="", repr=False)
    node_url: Annotated[BaseUrl, "where other nodes on the same store reach this one; empty: http://<bind>"] = ""
    outbox_max_bytes: Annotated[
        Bytes, "bytes of messages that a node has accepted (202) and not yet published; beyond them 429"
    ] = 256 * MIB
    outbox_min_free: Annotated[
        MinFree, "free bytes of data_dir's disk below which the answer is 503, not 202; empty: 64 MiB, at most 5 %"
    ] = None
    task_retention: Annotated[Retention, "seconds for which a task is kept after it has ended"] = 86400.0
    max_consumer_instances: Annotated[Count, "consumer instances that a node holds; beyond them 503"] = 1000
    consumer_idle_timeout: Annotated[Seconds, "seconds without a call until a consumer instance is closed"] = 300.0
    consumer_auto_offset_reset: Annotated[
        Reset, "where an instance starts that has no committed offset: earliest or latest"
    ] = "earliest"
    idempotency_retention: Annotated[Retention, "seconds an Idempotency-Key is remembered"] = 86400.0
    callback_secret: Annotated[
        Secrets, "secrets that sign callbacks, each of them each callback; empty: one is made and kept in data_dir"
    ] = field(default=(), repr=False)
    callback_allow: Annotated[
        Hosts, "hosts that callbacks may go to wherever they are: names, *.example.org, addresses, networks"
    ] = ()
    callback_hosts: Annotated[Hosts, "the only hosts that callbacks may go to; empty: any that is public"] = ()
    callback_timeout: Annotated[Seconds, "seconds until a receiver must have answered a callback"] = 10.0
    callback_retry_for: Annotated[LongSeconds, "seconds that a callback is tried again for, 0 for once only"] = 3600.0
    callback_workers: Annotated[Count, "callbacks under way at the same time, half of them to one host"] = 8
    # The sections may hold passwords: they stay out of the repr.
    kafka: Annotated[Section, "kafka-python's settings for all clients: security_protocol, sasl_…, ssl_…"] = field(
        default_factory=dict, repr=False
    )
    producer: Annotated[Section, "kafka-python's settings for the producer, over those of kafka"] = field(
        default_factory=dict, repr=False
    )
    consumer: Annotated[Section, "kafka-python's settings for reading, over those of kafka"] = field(
        default_factory=dict, repr=False
    )
    admin: Annotated[Section, "kafka-python's settings for the admin client, over those of kafka"] = field(
        default_factory=dict, repr=False
    )
    schema_registry: Annotated[Section, "the schema registry that avro, protobuf and jsonschema need: url, …"] = field(
        default_factory=dict, repr=False
    )
    serializers: Annotated[Sections, "settings of each serialiser, by its name"] = field(
        default_factory=dict, repr=False
    )
    topics: Annotated[Sections, "formats of topics by patterns of their names, where a request names none"] = field(
        default_factory=dict
    )
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        placed = str(self.data_dir.expanduser()).replace("{port}", str(self.port))
        object.__setattr__(self, "data_dir", Path(placed))

    @property
    def host(self) -> str:
        """The host of `bind`, an IPv6 address without its brackets."""
        return self.bind.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.bind.rpartition(":")[2])


class Setting(NamedTuple):
    """A field of `Config` that can be set. `kind` is its type without constraints, `takes` says what it accepts."""

    name: str
    help: str
    takes: str
    kind: Any
    hint: Any

    @property
    def is_section(self) -> bool:
        return get_origin(self.kind) is Mapping

    @property
    def depth(self) -> int:
        """How many names lead to a value of a section: its own key, or a key in the table of a name."""
        if not self.is_section:
            return 0
        return 2 if get_origin(get_args(self.kind)[1]) is Mapping else 1

    @property
    def is_list(self) -> bool:
        return get_origin(self.kind) is tuple


def settings_of(holder: type) -> Iterator[Setting]:
    """Yield the settings that a class of settings declares: its annotated fields."""
    for name, hint in get_type_hints(holder, include_extras=True).items():
        if get_origin(hint) is Annotated:
            kind, *about = get_args(hint)
            takes = next(each.description for each in about if isinstance(each, Meta) and each.description)
            yield Setting(name, about[-1], takes, kind, hint)


SETTINGS: Mapping[str, Setting] = {each.name: each for each in settings_of(Config)}


_SECRET_WORDS = frozenset(("pw", "pwd", "auth", "authorization", "pem"))
_SECRET_PART = re.compile(r"passw|passphrase|secret|token|credential|apikey|privatekey")
_NAMES_ANOTHER = frozenset(("file", "path", "url", "uri", "ttl", "provider", "location", "format", "type"))
"""Last words of what is about a secret and not one itself: `key_format`, `token_url`."""


def is_secret(name: str) -> bool:
    """Whether the value of a setting of this name is not to be shown. Names in [topics] are patterns and no secrets."""
    if name.startswith("topics."):
        return False
    own = name.rpartition(".")[2]
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", own).lower())
    if not words or words[-1] in _NAMES_ANOTHER:
        return False
    marked = words[-1] == "key" or not _SECRET_WORDS.isdisjoint(words)
    return bool(marked or _SECRET_PART.search("".join(words)))


_URL_PASSWORD = re.compile(r"""(://[^/@\s:"']*):(?:(?!://)[^\s"'])*@""")
_QUERY_PASSWORD = re.compile(r"""([?&][^=&\s]*(?:passw|secret|token)[^=&\s]*=)[^&\s"']*""", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """A text without the passwords of the URLs in it."""
    return _QUERY_PASSWORD.sub(r"\1(hidden)", _URL_PASSWORD.sub(r"\1:(hidden)@", text))

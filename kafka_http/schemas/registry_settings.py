"""The settings of the schema registry's client: the section `[schema_registry]`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from msgspec import Meta, Struct

from kafka_http.config import ConfigError
from kafka_http.config.sections import read_section, source_of
from kafka_http.config.settings import MIB, Bytes, Setting, settings_of
from kafka_http.config.sources import wrong_setting

SECTION = "schema_registry"

_URL = r"^https?://[^\s/?#@]+[^\s?#@]*$"
Urls = Annotated[
    tuple[Annotated[str, Meta(pattern=_URL)], ...],
    Meta(description="URLs such as http://registry:8081, commas between several, and no credentials in them"),
]
Login = Annotated[str, Meta(pattern=r"^([^:]+:.*)?$", description="USER:PASSWORD")]
Token = Annotated[str, Meta(pattern=r"^[!-~]*$", description="a text")]
File = Annotated[str, Meta(description="the path of a file that exists")]
Password = Annotated[str, Meta(description="a text")]
Timeout = Annotated[float, Meta(ge=0.1, le=60, description="a number of seconds from 0.1 to 60")]
Lifetime = Annotated[float, Meta(ge=0, le=86400, description="a number of seconds from 0 to 86400")]


class RegistrySettings(Struct, frozen=True, kw_only=True):
    """The settings of the registry's client."""

    url: Annotated[Urls, "addresses of the registry; if one does not answer, the next is tried"] = ()
    basic_auth: Annotated[Login, "USER:PASSWORD for basic authentication"] = ""
    bearer_token: Annotated[Token, "token for bearer authentication"] = ""
    ca_file: Annotated[File, "trusted certificates, PEM; empty: those of the system"] = ""
    certificate_file: Annotated[File, "client certificate, PEM"] = ""
    key_file: Annotated[File, "key of the client certificate, PEM; empty: in the same file"] = ""
    key_password: Annotated[Password, "password of that key"] = ""
    timeout: Annotated[Timeout, "seconds until a request to the registry fails, all attempts included"] = 5.0
    latest_ttl: Annotated[Lifetime, "seconds until the latest schema of a subject is fetched again"] = 30.0
    cache_bytes: Annotated[Bytes, "bytes of schemas in each schema cache of a worker"] = 8 * MIB
    max_schema_bytes: Annotated[Bytes, "largest schema, with the schemas it refers to"] = MIB // 2

    @classmethod
    def from_config(cls, section: Mapping[str, Any], sources: Mapping[str, str]) -> Self:
        """Return the settings of a section. `sources` says where each setting comes from. Raises `ConfigError`."""
        values = read_section(cls, SECTION, section, sources)
        for name in filter(lambda name: name.endswith("_file"), values):
            if values[name] and not Path(values[name]).is_file():
                source = source_of(f"{SECTION}.{name}", sources)
                raise wrong_setting(SETTINGS[name]._replace(name=f"{SECTION}.{name}"), source)
        if values.get("basic_auth") and values.get("bearer_token"):
            raise ConfigError(f"{SECTION}.basic_auth and {SECTION}.bearer_token cannot be used together.")
        return cls(**values)


def registry_setting_help() -> Mapping[str, str]:
    """Return what each setting is for, by its name."""
    return {name: each.help for name, each in SETTINGS.items()}


SETTINGS: Mapping[str, Setting] = {each.name: each for each in settings_of(RegistrySettings)}

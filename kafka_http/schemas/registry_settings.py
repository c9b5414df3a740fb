"""The settings of the schema registry's client: the section `[schema_registry]`."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from kafka_http.config import ConfigError
from kafka_http.config.settings import MIB

SECTION = "schema_registry"

_URL = r"^https?://[^\s/?#@]+[^\s?#@]*$"
Urls = Annotated[
    tuple[Annotated[str, Meta(pattern=_URL)], ...],
    Meta(description="URLs such as http://registry:8081, commas between several, and no credentials in them"),
]
Login = Annotated[str, Meta(pattern=r"^([^:]+:.*)?$", description="USER:PASSWORD")]
Text = Annotated[str, Meta(pattern=r"^[!-~]*$", description="a text")]
File = Annotated[str, Meta(description="the path of a file that exists")]
Password = Annotated[str, Meta(description="a text")]
Timeout = Annotated[float, Meta(ge=0.1, le=60, description="a number of seconds from 0.1 to 60")]
Lifetime = Annotated[float, Meta(ge=0, le=86400, description="a number of seconds from 0 to 86400")]
Size = Annotated[int, Meta(ge=1024, description="a number of bytes, at least 1024")]


class RegistrySettings(Struct, frozen=True, kw_only=True):
    """What can be set of the registry's client."""

    url: Annotated[Urls, "the registry's addresses; the next is asked where one does not answer"] = ()
    basic_auth: Annotated[Login, "USER:PASSWORD to send"] = ""
    bearer_token: Annotated[Text, "token to send instead"] = ""
    ca_file: Annotated[File, "certificates to trust, PEM; empty: the system's"] = ""
    certificate_file: Annotated[File, "client certificate, PEM"] = ""
    key_file: Annotated[File, "its key, PEM; empty: in the same file"] = ""
    key_password: Annotated[Password, "what that key is encrypted with"] = ""
    timeout: Annotated[Timeout, "seconds until a question to the registry has failed, whatever was tried"] = 5.0
    latest_ttl: Annotated[Lifetime, "seconds until it is asked again what a subject's latest schema is"] = 30.0
    cache_bytes: Annotated[Size, "bytes of schemas that each of a worker's caches of them holds"] = 8 * MIB
    max_schema_bytes: Annotated[Size, "largest schema, those included that it refers to"] = MIB // 2

    @classmethod
    def of(cls, section: Mapping[str, Any], sources: Mapping[str, str]) -> Self:
        """Check the section. Raises `ConfigError`, naming the setting and what it takes."""
        values = {}
        for name, value in section.items():
            where = f"The setting {SECTION}.{name} ({sources.get(f'{SECTION}.{name}', 'given in the program')})"
            if name not in cls.__struct_fields__:
                near = difflib.get_close_matches(name, cls.__struct_fields__, n=1)
                hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(cls.__struct_fields__)}."
                raise ConfigError(f"{where} is none of the schema registry's.{hint}")
            values[name] = _checked(where, name, value)
        if values.get("basic_auth") and values.get("bearer_token"):
            raise ConfigError(f"Of {SECTION}.basic_auth and {SECTION}.bearer_token only one can be sent.")
        return cls(**values)


def registry_setting_help() -> Mapping[str, str]:
    """What each is for, by its name."""
    return {name: get_args(hint)[-1] for name, hint in _hints().items()}


def _hints() -> Mapping[str, Any]:
    return get_type_hints(RegistrySettings, include_extras=True)


def _checked(where: str, name: str, value: Any) -> Any:
    hint = _hints()[name]
    if name == "url":
        value = tuple(filter(None, re.split(r"[,\s]+", value))) if isinstance(value, str) else value
    try:
        converted = msgspec.convert(value, hint)
    except msgspec.ValidationError:
        takes = next(each.description for each in get_args(hint) if isinstance(each, Meta) and each.description)
        raise ConfigError(f"{where} takes {takes}.") from None
    if converted and name.endswith("_file") and not Path(converted).is_file():
        raise ConfigError(f"{where} takes the path of a file that exists.")
    return converted

"""The settings of the schema registry's client: the section `[schema_registry]`."""

from typing import Annotated

from msgspec import Meta, Struct

from kafka_http.config import MIB


class RegistrySettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    url: tuple[str, ...] = ()
    basic_auth: str = ""
    bearer_token: str = ""
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    key_password: str = ""
    timeout: Annotated[float, Meta(ge=0.1, le=60)] = 5.0
    latest_ttl: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    cache_bytes: Annotated[int, Meta(ge=1024)] = 8 * MIB
    max_schema_bytes: Annotated[int, Meta(ge=1024)] = MIB // 2

"""The settings in the sections `[auth]` and `[auth.jwt]`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from msgspec import Meta, Struct

from kafka_http.config import ConfigError
from kafka_http.config.sections import read_section
from kafka_http.security.access import Right

SECTION = "auth"

File = Annotated[str, Meta(description="the path of a file")]
Switch = Annotated[bool, Meta(description="true or false")]
Header = Annotated[str, Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]*$", description="the name of a header")]
Text = Annotated[str, Meta(description="a text")]
JwksUrl = Annotated[
    str, Meta(pattern=r"^(https?://[^\s/?#@]+([/?][^\s#]*)?)?$", description="a URL without credentials")
]
Algorithms = Annotated[
    tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...],
    Meta(min_length=1, description="asymmetric algorithms such as RS256, ES256 or EdDSA"),
]
PrincipalFrom = Annotated[
    Literal["cn", "dns", "email", "uri"],
    Meta(description="cn, or the first alternative name of a kind: dns, email or uri"),
]
AnonymousRights = Annotated[
    tuple[Right, ...], Meta(description="rights such as publish, read and consumer, separated by commas")
]
Table = Annotated[Mapping[str, Any], Meta(description="a table of settings")]


def read_auth_file(setting: str, path: str) -> str:
    """Return the text of a file that a setting in `[auth]` names. Raises `ConfigError`."""
    try:
        return Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"The file {path} ({SECTION}.{setting}) cannot be read: {error.strerror}.") from None
    except UnicodeError:
        raise ConfigError(f"The file {path} ({SECTION}.{setting}) is not a text in UTF-8.") from None


class JwtSettings(Struct, frozen=True, kw_only=True):
    """JSON Web Tokens: the section `[auth.jwt]`."""

    issuer: Annotated[Text, "the issuer (iss) of all tokens"] = ""
    audience: Annotated[Text, "the audience (aud) that all tokens must have"] = ""
    jwks_url: Annotated[JwksUrl, "where the issuer publishes its keys"] = ""
    public_key: Annotated[File, "public key in place of jwks_url, PEM"] = ""
    algorithms: Annotated[Algorithms, "algorithms that are accepted"] = ("RS256", "ES256", "EdDSA")
    principal_claim: Annotated[Text, "the claim with the name of the principal"] = "sub"
    groups_claim: Annotated[Text, "the claim with the groups of the principal; empty: no groups"] = ""
    require_exp: Annotated[Switch, "reject tokens that do not expire"] = True


class AuthSettings(Struct, frozen=True, kw_only=True):
    """Authentication: the section `[auth]`."""

    basic: Annotated[File, "htpasswd file of users and bcrypt hashes"] = ""
    keys: Annotated[File, "TOML file of API keys"] = ""
    jwt: Annotated[Table, "JSON Web Tokens: issuer, audience, jwks_url or public_key, …"] = {}
    mtls: Annotated[Switch, "the certificate of the client names the principal; needs tls_client_ca"] = False
    principal_from: Annotated[PrincipalFrom, "the part of the certificate that is the name of the principal"] = "cn"
    proxy_header: Annotated[Header, "header in which trusted_proxies name the principal"] = ""
    anonymous: Annotated[AnonymousRights, "rights of requests without credentials"] = ()

    @classmethod
    def from_config(cls, section: Mapping[str, Any], sources: Mapping[str, str]) -> Self:
        """Return the settings of the section. Raises `ConfigError`."""
        settings = cls(**read_section(cls, SECTION, section, sources))
        if settings.anonymous and not settings.is_on:
            raise ConfigError("auth.anonymous needs a kind of authentication: basic, keys, jwt, mtls or proxy_header.")
        return settings

    @property
    def is_on(self) -> bool:
        return bool(self.basic or self.keys or self.jwt or self.mtls or self.proxy_header)

    def jwt_settings(self, sources: Mapping[str, str]) -> JwtSettings:
        """Return the settings in `[auth.jwt]`. Raises `ConfigError`."""
        settings = JwtSettings(**read_section(JwtSettings, f"{SECTION}.jwt", self.jwt, sources))
        if bool(settings.jwks_url) == bool(settings.public_key):
            raise ConfigError("[auth.jwt] needs either jwks_url or public_key.")
        for name in ("issuer", "audience"):
            if not getattr(settings, name):
                raise ConfigError(f"[auth.jwt] needs {name}: without it, tokens for other services would be accepted.")
        return settings

"""Builds the state of the check point from the settings and the files that they name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kafka_http.config import Config, ConfigError
from kafka_http.config.settings import is_loopback
from kafka_http.errors import how_to_install
from kafka_http.security.access import Rules
from kafka_http.security.access_rules import SECTION, AllowAll, SettingsRules, can_match_topics
from kafka_http.security.acl_cache import AclCache
from kafka_http.security.api_keys import ApiKeys
from kafka_http.security.auth_settings import AuthSettings
from kafka_http.security.certificates import ClientCertificates
from kafka_http.security.check_point import SecurityState
from kafka_http.security.login_attempts import LoginAttempts
from kafka_http.security.origins import Origins
from kafka_http.security.principal import Authenticator, Principal, PrincipalList
from kafka_http.security.proxy_header import ProxyHeader
from kafka_http.security.rate_limits import load_limits
from kafka_http.security.shared_counters import SharedCounters
from kafka_http.security.trusted_networks import TrustedNetworks


def load_security(config: Config, shared: SharedCounters, acls: AclCache) -> SecurityState:
    """Read what the settings name. `shared` and `acls` are the same at each reload.

    Raises `ConfigError`, which names the file and the line.
    """
    settings = AuthSettings.from_config(config.auth, config.sources)
    _check_required(config, settings)
    rules = load_rules(config, settings, acls)
    kinds = load_authenticators(config, settings, shared)
    return SecurityState(
        kinds,
        rules,
        frozenset(settings.anonymous),
        load_limits(config.limits, config.sources, shared),
        _origins(config),
        _warnings(config, settings, rules, kinds),
        is_required=config.require_auth,
    )


def _check_required(config: Config, settings: AuthSettings) -> None:
    if config.require_auth and not settings.is_on and not is_loopback(config.host):
        raise ConfigError(
            f"require_auth: other hosts can reach {config.bind}, and no client authenticates itself. Add the section "
            "[auth], or listen on 127.0.0.1."
        )


def load_rules(config: Config, settings: AuthSettings, acls: AclCache) -> SettingsRules | AclCache | AllowAll:
    """Return the rules that the settings name. Raises `ConfigError`."""
    has_section = bool(config.access) or SECTION in config.sources
    if (has_section or config.access_rules == "kafka") and not settings.is_on:
        raise ConfigError("Access rules need authentication: add the section [auth].")
    if config.access_rules == "settings":
        return SettingsRules.from_config(config) if has_section else AllowAll()
    if has_section:
        raise ConfigError('Rules are in [access], but access_rules = "kafka". Remove one of the two.')
    return acls


def _warnings(config: Config, settings: AuthSettings, rules: Rules, kinds: Sequence[Authenticator]) -> tuple[str, ...]:
    listed = listed_principals(kinds)
    warnings = [
        f"topics of the API key {each.name}: no topic can have a name that matches {pattern!r}."
        for each in listed
        for pattern in (each.restriction and each.restriction.topics) or ()
        if not can_match_topics(pattern)
    ]
    if isinstance(rules, SettingsRules):
        has_groups = bool(settings.jwt) and settings.jwt_settings(config.sources).groups_claim != ""
        principals = listed if are_all_listed(kinds) else None
        warnings += rules.warnings(settings.anonymous, has_groups=has_groups, principals=principals)
    return tuple(warnings)


def listed_principals(kinds: Sequence[Authenticator]) -> list[Principal]:
    """Return the users and keys in files."""
    return [principal for each in kinds if isinstance(each, PrincipalList) for principal in each.principals]


def are_all_listed(kinds: Sequence[Authenticator]) -> bool:
    """Whether there are no other principals than users and keys in files, such as those of tokens."""
    return all(isinstance(each, PrincipalList) for each in kinds)


def load_authenticators(config: Config, settings: AuthSettings, shared: SharedCounters) -> list[Authenticator]:
    """Return the kinds of credentials that are on, in the order in which they are tried."""
    kinds: list[Authenticator] = []
    if settings.basic:
        kinds.append(_basic_logins(config, settings, shared))
    if settings.keys:
        kinds.append(ApiKeys.from_file(settings.keys))
    if settings.jwt:
        kinds.append(_json_web_tokens(config, settings))
    if settings.mtls:
        kinds.append(_client_certificates(config, settings))
    if settings.proxy_header:
        kinds.append(_proxy_header(config, settings))
    return kinds


def _basic_logins(config: Config, settings: AuthSettings, shared: SharedCounters) -> Authenticator:
    with _extra_needed("auth.basic"):
        from kafka_http.security.passwords import BasicLogins
    concurrent = max(1, config.threads // 2)  # the other threads are for requests with other credentials
    return BasicLogins.from_file(settings.basic, LoginAttempts(shared.buckets), concurrent)


def _json_web_tokens(config: Config, settings: AuthSettings) -> Authenticator:
    with _extra_needed("auth.jwt"):
        from kafka_http.security.json_web_tokens import JsonWebTokens
    return JsonWebTokens.from_settings(settings.jwt_settings(config.sources))


def _client_certificates(config: Config, settings: AuthSettings) -> Authenticator:
    if not config.tls_client_ca:
        raise ConfigError("auth.mtls needs tls_client_ca: without it, no certificate of a client is verified.")
    return ClientCertificates(settings.principal_from)


def _proxy_header(config: Config, settings: AuthSettings) -> Authenticator:
    if not config.trusted_proxies or config.sources.get("trusted_proxies", "default") == "default":
        raise ConfigError(
            "auth.proxy_header needs trusted_proxies in the settings: the addresses of the proxies that may name the "
            "principal. The default is not used for this, because every client on this machine would be trusted."
        )
    return ProxyHeader(settings.proxy_header, TrustedNetworks(config.trusted_proxies))


@contextmanager
def _extra_needed(setting: str) -> Iterator[None]:
    """Turn a missing package into the error that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigError(f"{setting} needs the package {error.name}. {how_to_install('auth')}") from None


def _origins(config: Config) -> Origins:
    origins = Origins(config.cors_origins, credentials=config.cors_credentials, max_age=config.cors_max_age)
    if config.cors_credentials and origins.allows_reading:
        raise ConfigError(
            "cors_credentials cannot be used with * in cors_origins. List the origins that may send credentials, such "
            "as https://app.example.org."
        )
    return origins

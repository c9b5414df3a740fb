"""`kafka-http access`: what a principal may do, and which rule says so."""

import argparse
import sys
from collections.abc import Iterable

from kafka_http.broker import KafkaBroker
from kafka_http.cli.setting_flags import given_settings
from kafka_http.config import Config
from kafka_http.config.sources import load_config
from kafka_http.errors import KafkaHttpError
from kafka_http.security.access_rules import Explanation
from kafka_http.security.acl_cache import AclCache
from kafka_http.security.auth_settings import AuthSettings
from kafka_http.security.principal import ANONYMOUS_NAME, KeyRestriction, Principal
from kafka_http.security.security_state import are_all_listed, listed_principals, load_authenticators, load_rules
from kafka_http.security.shared_counters import SharedCounters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command that are not settings."""
    parser.add_argument(
        "principal", metavar="PRINCIPAL", help="a user, a key, …; anonymous stands for requests without credentials"
    )
    parser.add_argument("--groups", metavar="A,B", default="", help="groups in the token of the principal")
    parser.add_argument("--address", metavar="ADDRESS", default="", help="address of the client, for ACLs with a host")


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each rule that matches. Raises `ConfigError`."""
    config = load_config(given_settings(arguments))
    settings = AuthSettings.from_config(config.auth, config.sources)
    if not settings.is_on:
        print("Authentication is off: every client may do everything. See [auth] and [access] in the settings.")
        return 0
    name = arguments.principal
    groups = frozenset(filter(None, arguments.groups.split(",")))
    principal = Principal(name, "anonymous" if name == ANONYMOUS_NAME else "off", groups)
    try:
        explained = _explain(config, settings, principal, arguments.address)
    except KafkaHttpError as error:
        print(f"kafka-http: {error.message}", file=sys.stderr)
        return 1
    _print_rules(explained)
    for note in _notes(config, settings, principal):
        print(note)
    return 0


def _explain(config: Config, settings: AuthSettings, principal: Principal, address: str) -> list[Explanation]:
    """Return what the rules say. Raises `KafkaHttpError` if the cluster's ACLs cannot be read."""
    broker = KafkaBroker(config)
    try:
        acls = AclCache(broker.acls)
        rules = load_rules(config, settings, acls)
        if rules is acls:
            acls.load(broker.acls)
        explained = rules.explain(principal, address)
    finally:
        broker.close(0)
    is_anonymous = principal.scheme == "anonymous"
    return [each for each in explained if not is_anonymous or each.right in settings.anonymous]


def _print_rules(explained: Iterable[Explanation]) -> None:
    rows = [(_right(each), ", ".join(each.names), each.rule) for each in explained]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for right, names, rule in rows:
        print(f"{right:{widths[0]}}  {names:{widths[1]}}  {rule}")
    print("Everything else is refused." if rows else "No rule matches: everything is refused.")


def _right(explanation: Explanation) -> str:
    return f"not {explanation.right}" if explanation.is_denied else explanation.right


def _notes(config: Config, settings: AuthSettings, principal: Principal) -> list[str]:
    """Return sentences about what applies beside the rules."""
    if principal.scheme == "anonymous":
        rights = ", ".join(settings.anonymous) or "no rights"
        return [f"Requests without credentials have at most the rights in auth.anonymous: {rights}."]
    kinds = load_authenticators(config, settings, SharedCounters.create())
    same = [each for each in listed_principals(kinds) if each.name == principal.name]
    if not same and are_all_listed(kinds):
        return [f"No user and no key has the name {principal.name}."]
    restrictions = [_restriction_text(each.restriction) for each in same if each.restriction]
    return [f"The API key {principal.name} narrows this: {each}." for each in restrictions]


def _restriction_text(restriction: KeyRestriction) -> str:
    parts = {
        "publish only": restriction.publish_only,
        f"topics {', '.join(restriction.topics or ())}": restriction.topics is not None,
        f"origins {', '.join(restriction.origins or ())}": restriction.origins is not None,
    }
    return "; ".join(text for text, applies in parts.items() if applies)

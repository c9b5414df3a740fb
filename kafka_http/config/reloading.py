"""Settings that are read again while the server runs."""

from dataclasses import replace

from kafka_http.config.settings import SETTINGS, Config, ConfigError

RELOADED_SETTINGS = frozenset(("auth", "access", "limits", "cors_origins", "cors_credentials", "cors_max_age"))
"""What SIGHUP applies. Other settings need a restart."""


def reloaded_config(start: Config) -> Config:
    """Return the settings of the start with those that a reload applies. Raises `ConfigError`.

    The rest stays, so that what a reload checks is what the server does: it still listens on the first `bind`.
    """
    again = start.loaded_again()
    if again.access_rules != start.access_rules:  # the other rules would not apply, and these have no section any more
        raise ConfigError(f"access_rules has changed to {again.access_rules}, which needs a restart.")
    kept = {name: source for name, source in start.sources.items() if not _is_reloaded(name)}
    new = {name: source for name, source in again.sources.items() if _is_reloaded(name)}
    return replace(start, **{name: getattr(again, name) for name in RELOADED_SETTINGS}, sources=kept | new)


def _is_reloaded(name: str) -> bool:
    return name.partition(".")[0] in RELOADED_SETTINGS


def changes_for_restart(start: Config, again: Config) -> list[str]:
    """Return the names of the settings that have changed and need a restart, without their values."""
    names = []
    for name in SETTINGS.keys() - RELOADED_SETTINGS:
        old, new = getattr(start, name), getattr(again, name)
        if old != new and SETTINGS[name].is_section:
            names += [f"{name}.{key}" for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
        elif old != new:
            names.append(name)
    return sorted(names)

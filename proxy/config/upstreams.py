"""Reader of the `[upstreams]` tables: addresses, keys by name, proxies, and when a key or model rests."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from proxy.config.config import UpstreamConfig
from proxy.config.quoting import told_key
from proxy.config.tables import Faults, HealthTable, UpstreamTable, join, read_table
from proxy.config.values import NO_SECRET, Secret, parse_base_url, parse_proxy, read_secret
from proxy.core.catalog import Dialect
from proxy.core.health import HealthPolicy

DEFAULT_KEY = "default"
"""Name of the key that stands as ``api_key``."""
_KEY_NAME_CHARACTERS_MAX = 64
_FAILURES_MAX = 1000


def dialects_of(value: object) -> dict[str, tuple[Dialect, bool]]:
    """Return for each upstream, also one with faults, its dialect and whether usage is asked for: what its models need of it."""
    found: dict[str, tuple[Dialect, bool]] = {}
    for name, table in value.items() if isinstance(value, Mapping) else ():
        written = table if isinstance(table, Mapping) else {}
        found[name] = ("openai" if written.get("dialect") == "openai" else "ark", written.get("asks_usage") is not False)
    return found


def read_upstreams(value: object, base: Path, env: Mapping[str, str] | None, faults: Faults) -> dict[str, UpstreamConfig | None]:
    """Return the upstreams by name; one with faults is None, so that its models are not blamed for it."""
    if not isinstance(value, Mapping) or not value:
        faults.add("upstreams", "at least one [upstreams.NAME] table is needed")
        return {}
    upstreams: dict[str, UpstreamConfig | None] = {}
    for name, table in value.items():
        key = join("upstreams", name if isinstance(table, Mapping) else told_key(name, ()))
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            faults.add(key, "the name of an upstream is made of letters, digits, - and _")
        upstreams[name] = _read_upstream(name, table, key, base, env, faults)
    return upstreams


def _read_upstream(
    name: str, value: object, key: str, base: Path, env: Mapping[str, str] | None, faults: Faults
) -> UpstreamConfig | None:
    table = read_table(UpstreamTable, value, key, faults)
    if table is None:
        return None
    base_url = ""
    try:
        base_url = parse_base_url(table.base_url)
    except ValueError as error:
        faults.add(join(key, "base_url"), str(error))
    api_keys = _read_keys(table, key, base, env, faults)
    if not table.asks_usage and table.dialect != "openai":
        faults.add(join(key, "asks_usage"), 'false is for an upstream with dialect = "openai": Ark always tells the usage')
    proxy, proxy_auth = _read_proxy(table, key, base, env, faults)
    return UpstreamConfig(
        name,
        base_url,
        api_keys,
        table.connect_seconds,
        table.first_byte_seconds,
        table.idle_seconds,
        table.requests_per_second,
        table.list_requests_per_second,
        proxy,
        proxy_auth,
        table.dialect,
        table.asks_usage,
        _read_health(table.health, join(key, "health"), faults),
    )


def _read_proxy(table: UpstreamTable, key: str, base: Path, env: Mapping[str, str] | None, faults: Faults) -> tuple[str | None, Secret]:
    """Return the proxy of an upstream, and who we are to it."""
    proxy, auth = None, NO_SECRET
    try:
        proxy = None if table.proxy is None else parse_proxy(table.proxy)
    except ValueError as error:
        faults.add(join(key, "proxy"), str(error))
    try:
        auth = NO_SECRET if table.proxy_auth is None else read_secret(table.proxy_auth, base, env)
    except ValueError as error:
        faults.add(join(key, "proxy_auth"), str(error))
    if table.proxy_auth is not None and table.proxy is None:
        faults.add(join(key, "proxy_auth"), "is for a proxy, and there is none: name it by proxy")
    if auth and ":" not in auth.reveal():
        faults.add(join(key, "proxy_auth"), "leads to something that is not USER:PASSWORD")
    return proxy, auth


def _read_keys(table: UpstreamTable, key: str, base: Path, env: Mapping[str, str] | None, faults: Faults) -> Mapping[str, Secret]:
    """Return the keys by name: the one of ``api_key``, or those of ``api_keys``."""
    if table.api_key is not None and table.api_keys:
        faults.add(join(key, "api_keys"), "stands beside api_key: name all keys here, or write the only one as api_key")
    if table.api_key is None and not table.api_keys:
        faults.add(join(key, "api_key"), "missing")
    at = join(key, "api_key")
    places = {DEFAULT_KEY: (at, table.api_key)} if table.api_key is not None else {}
    for name, reference in table.api_keys.items():
        at = join(join(key, "api_keys"), told_key(name, ()))
        _check_key_name(name, at, places, faults)
        places.setdefault(name, (at, reference))
    keys: dict[str, Secret] = {}
    for name, (at, reference) in places.items():
        keys[name] = NO_SECRET
        try:
            keys[name] = read_secret(reference, base, env)
        except ValueError as error:
            faults.add(at, str(error))
    named = {secret: name for name, secret in reversed(keys.items()) if secret}
    for name, secret in keys.items():
        if secret and (first := named[secret]) != name:
            faults.add(places[name][0], f"leads to the same key as {first}")
    return MappingProxyType(keys)


def _check_key_name(name: str, at: str, others: Mapping[str, object], faults: Faults) -> None:
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum() or len(name) > _KEY_NAME_CHARACTERS_MAX:
        faults.add(at, f"the name of a key is made of letters, digits, - and _, at most {_KEY_NAME_CHARACTERS_MAX}")
    if name.lower() in (other.lower() for other in others):
        faults.add(at, "two keys have this name")


def _read_health(value: object, key: str, faults: Faults) -> HealthPolicy:
    table = read_table(HealthTable, value, key, faults)
    if table is None:
        return HealthPolicy()
    failures, (first, longest) = table.failures, table.rest_seconds
    if not (0 < failures < 1 if isinstance(failures, float) else 1 <= failures <= _FAILURES_MAX):
        told = f"must be a whole number of failures in a row, 1 to {_FAILURES_MAX}, or a share over 0 and under 1"
        faults.add(join(key, "failures"), f"{told}, not {failures}")
    if first > longest:
        faults.add(join(key, "rest_seconds"), "the first rest must not be over the longest")
    return HealthPolicy(failures, (first, longest))

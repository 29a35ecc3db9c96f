"""The configuration's keys as environment variables: ``LLM_PROXY_SERVER__LISTEN`` is ``server.listen``, and overrides the file's.

Two underscores separate names as a dot does in the file. Variables without them are ignored, since they may belong to others: for a
service named ``llm-proxy`` Kubernetes sets ``LLM_PROXY_PORT`` and more in every container. An empty variable counts as not set.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from proxy.config.tables import SECTIONS, VARIABLE_PREFIX, Faults, HealthTable, Table, UpstreamTable, join, suggestion

PROXY_ADVICE = 'if the upstream is reached only through it, name it as proxy = "http://HOST:PORT" of the upstream'
_PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
_PARTS = "__"
_NOT_A_KEY = f"{VARIABLE_PREFIX}CONFIG"
"""Variable that names the file."""
_WHOLE = ("models", "upstreams")
"""Keys that can be given as one value; models can be given only so."""
_MODELS = f"{VARIABLE_PREFIX}MODELS"


def stands_for_keys(env: Mapping[str, str]) -> bool:
    """Return whether the environment holds any part of the configuration."""
    return any(True for _ in _variables(env))


def ignored_proxy_variable(env: Mapping[str, str]) -> str | None:
    """Return the variable by which other programs find a proxy, if one is set: an upstream's proxy is named in its table alone."""
    return next((name for name in _PROXY_VARIABLES if env.get(name)), None)


def overlay(document: dict[str, Any], env: Mapping[str, str], *, is_all: bool) -> tuple[list[str], Faults]:
    """Put the environment's values into the document, and return the names of their variables, and the faults.

    The faults, including those added to them later, name the variable of a key whose value came from one. With ``is_all``, when there
    is no file, they always name the variable.
    """
    set_by: dict[str, str] = {}
    faults = Faults(lambda key: _place(key, set_by, is_all=is_all))
    for name in _variables(env):
        try:
            key = _put(document, name, env[name].strip())
        except ValueError as error:
            faults.append(f"{name}: {error}")
            continue
        set_by[key] = name
    return list(set_by.values()), faults


def _variables(env: Mapping[str, str]) -> Iterator[str]:
    """Return the names that stand for a key, or were meant to; a whole table comes before its keys."""
    ours = [name for name, value in env.items() if name.startswith(VARIABLE_PREFIX) and name != _NOT_A_KEY and value.strip()]
    return iter(sorted((name for name in ours if _is_meant(name)), key=lambda name: (name.count(_PARTS), name)))


def _is_meant(name: str) -> bool:
    rest = name.removeprefix(VARIABLE_PREFIX)
    return _PARTS in rest or rest.lower() in _WHOLE or _with_two_underscores(name) is not None


def _with_two_underscores(name: str) -> str | None:
    """Return the name that was meant by one with a single underscore, or None if unknown."""
    rest = name.removeprefix(VARIABLE_PREFIX).lower()
    for section, table in SECTIONS.items():
        if rest.startswith(f"{section}_") and rest.removeprefix(f"{section}_") in table.__struct_fields__:
            return f"{VARIABLE_PREFIX}{section}{_PARTS}{rest.removeprefix(f'{section}_')}".upper()
    return None


def _put(document: dict[str, Any], name: str, text: str) -> str:
    """Put a variable's value into the document, and return its key. Raises: ValueError: there is no such key, or it is not a value."""
    if name != name.upper():
        raise ValueError("is written in capitals throughout")
    if _PARTS not in name and (meant := _with_two_underscores(name)) is not None:
        raise ValueError(f"write two underscores where the file has a dot: {meant}")
    *tables, key = name.removeprefix(VARIABLE_PREFIX).lower().split(_PARTS)
    if not tables:
        document[key] = _parsed(text)
        return key
    match tables:
        case ["upstreams", *label, ("api_keys" | "health") as inner] if label:
            return _put_within(document, _PARTS.join(label), inner, key, name, text)
        case ["upstreams", *label] if label:
            label_of = _PARTS.join(label)
            return _put_upstream(document, label_of, key, name, text)
        case [section] if section in SECTIONS:
            _check_known(SECTIONS[section], key)
            _put_value(document, [section], key, _value(text, _type_of(SECTIONS[section], key)))
            return join(section, key)
        case ["models", *_]:
            raise ValueError(f"models are given all at once, as an array, by {_MODELS}")
    known = ", ".join(f"{VARIABLE_PREFIX}{section.upper()}{_PARTS}…" for section in (*SECTIONS, "upstreams"))
    raise ValueError(f"stands for no key (known: {known}, {_MODELS})")


def _put_upstream(document: dict[str, Any], label: str, key: str, name: str, text: str) -> str:
    _check_known(UpstreamTable, key)
    label = _label_in(document, label)
    is_secret = _is_secret(key, text)
    if is_secret and isinstance(_parsed_or_none(text), str):
        raise ValueError("is taken as it stands: write it without quotes")
    value = f"env:{name}" if is_secret else _value(text, _type_of(UpstreamTable, key))
    _put_value(document, ["upstreams", label], key, value)
    return join(join("upstreams", label), key)


def _put_within(document: dict[str, Any], label: str, inner: str, key: str, name: str, text: str) -> str:
    """Put one of an upstream's keys, or a key of its health, into the document, and return its key."""
    label = _label_in(document, label)
    value: object = f"env:{name}" if ":" not in text else text
    if inner == "health":
        _check_known(HealthTable, key)
        value = _value(text, _type_of(HealthTable, key))
    _put_value(document, ["upstreams", label, inner], key, value)
    return join(join(join("upstreams", label), inner), key)


def _is_secret(key: str, text: str) -> bool:
    """Return whether a variable's value is the secret itself, and not the name of its place. The credential of a proxy has a colon."""
    if key == "api_key":
        return ":" not in text
    return key == "proxy_auth" and not text.startswith(("env:", "file:", "credential:"))


def _label_in(document: Mapping[str, Any], label: str) -> str:
    """Return an upstream's name as the file writes it: a variable's name loses capitals and hyphens."""
    upstreams = document.get("upstreams")
    names = [name for name in upstreams if name.lower().replace("-", "_") == label] if isinstance(upstreams, dict) else []
    if len(names) > 1:
        raise ValueError(f"could be the upstream {' or '.join(names)}")
    return names[0] if names else label


def _put_value(document: dict[str, Any], tables: list[str], key: str, value: object) -> None:
    table: Any = document
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            return  # not a table in the file; that fault is reported
    table[key] = value


def _check_known(table: type[Table], key: str) -> None:
    if key not in table.__struct_fields__:
        raise ValueError(f"stands for no key{suggestion(key, dict.fromkeys(table.__struct_fields__))}")


def _type_of(table: type[Table], key: str) -> object:
    return next(field.type for field in msgspec.structs.fields(table) if field.name == key)


def _value(text: str, kind: object) -> object:
    """Return a text as the type of value that a key takes. Text that does not parse is kept: the key's check tells more."""
    while typing.get_origin(kind) in (Annotated, types.UnionType, typing.Union):
        kind = typing.get_args(kind)[0]  # the first member of a union; the other is None
    if kind is str or typing.get_origin(kind) is Literal:
        quoted = _parsed_or_none(text)
        return quoted if isinstance(quoted, str) else text
    if typing.get_origin(kind) is tuple and not text.startswith("["):
        return [_value(part.strip(), typing.get_args(kind)[0]) for part in text.split(",")]
    value = _parsed_or_none(text)
    return text if value is None else value


def _parsed_or_none(text: str) -> object:
    try:
        return _parsed(text)
    except ValueError:
        return None


def _parsed(text: str) -> object:
    """Return the value of a text in TOML or in JSON. Raises: ValueError."""
    try:
        document = msgspec.toml.decode(f"value = {text}", type=dict[str, Any])
        if document.keys() == {"value"}:
            return document["value"]
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ValueError("is no value of TOML and none of JSON") from None


def _place(key: str, set_by: Mapping[str, str], *, is_all: bool) -> str:
    """Return the name by which an operator finds a key: the variable that set it or a table around it, or the key itself."""
    for prefix in sorted(set_by, key=len, reverse=True):
        if key == prefix or key.startswith((f"{prefix}.", f"{prefix}[")):
            return set_by[prefix] + key[len(prefix) :]
    return _variable_of(key) if is_all else key


def _variable_of(key: str) -> str:
    """Return the variable that sets a key, or would; a path within its value is appended."""
    name, bracket, rest = key.partition("[")
    if name.startswith("upstreams."):
        return VARIABLE_PREFIX + name.replace("-", "_").replace(".", _PARTS).upper() + bracket + rest
    parts = name.split(".", 2)
    within = f".{parts[2]}" if len(parts) > 2 else ""
    return VARIABLE_PREFIX + _PARTS.join(parts[:2]).upper() + within + bracket + rest

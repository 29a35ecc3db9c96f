"""The URL of the store: ``sqlite:PATH``, or ``postgresql://…`` in the form of libpq's, without a password.

No reason ever quotes more of it than a name: whoever wrote a password into it must not read it in a log.
"""

import re
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from proxy.config.quoting import masked, reads_like_a_name

POSTGRES = "postgresql"
_SCHEMES = (POSTGRES, "postgres")
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Parameters that name files: a relative path starts from the configuration's directory."""
_PARAMETERS = ("host", "port", "sslmode", *_FILES, "target_session_attrs")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([0-9]{1,5}))?")
_SQLITE = 'must be "sqlite:PATH" with the path of a file, relative to this file or absolute'
_POSTGRES = 'must be "postgresql://USER@HOST:PORT/DATABASE"'


def parse_store_url(text: str, base: Path) -> str:
    """Return the URL as `proxy.store.open_store` takes it. Relative paths start from ``base``. Raises: ValueError."""
    scheme, colon, path = text.partition(":")
    if not colon:
        raise ValueError(f'must be "sqlite:PATH" or "postgresql://USER@HOST/DATABASE", not {masked(repr(text))}')
    if scheme in _SCHEMES:
        return _postgres(text, base)
    if scheme != "sqlite":
        raise ValueError(f'the store {masked(repr(scheme))} is not known: "sqlite:PATH" and "postgresql://USER@HOST/DATABASE" are')
    if path.startswith("//") or "?" in path or "\0" in path or path in ("", ":memory:"):
        raise ValueError(_SQLITE)
    return f"{scheme}:{base / path}"


def _postgres(text: str, base: Path) -> str:
    parts = _split(text)
    user, at, hosts = parts.netloc.rpartition("@")
    if ":" in user or "password" in dict(parse_qsl(parts.query)):
        raise ValueError('must not carry a password: it belongs to store.password, as "env:NAME" or "file:PATH"')
    if at and not user:
        raise ValueError(f"{_POSTGRES}: a name stands before the @")
    database = parts.path.removeprefix("/")
    if not parts.path.startswith("/") or not database or "/" in database or parts.fragment:
        raise ValueError(f"{_POSTGRES}, with the name of a database and nothing after it but parameters")
    for host in hosts.split(",") if hosts else ():
        found = _HOST.fullmatch(host)
        if found is None or int(found[1] or 1) > 65_535:
            raise ValueError(f"{_POSTGRES}: hosts are separated by commas, a port is a number up to 65535")
    return f"{POSTGRES}://{user}{at}{hosts}/{database}{_parameters(parts.query, base)}"


def _split(text: str) -> SplitResult:
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text or "://" not in text:
        raise ValueError(f"{_POSTGRES}, in printable ASCII characters: write others as %XX")
    try:
        return urlsplit(text)
    except ValueError:  # its text quotes a part, which may be of a password
        raise ValueError(f"{_POSTGRES}: brackets are for an IPv6 address") from None


def _parameters(query: str, base: Path) -> str:
    """Return the query with absolute paths. Raises: ValueError: a parameter that is not known here."""
    if not query:
        return ""
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise ValueError(f"{_POSTGRES}: parameters are ?NAME=VALUE&NAME=VALUE") from None
    for name, _ in given:
        if name not in _PARAMETERS:
            told = f"parameter {name}" if reads_like_a_name(name) else "a parameter that is not shown"
            raise ValueError(f"has {told}, which is not known here: {', '.join(_PARAMETERS)} are")
    return "?" + urlencode([(name, str(base / value) if name in _FILES else value) for name, value in given], safe="/,:")

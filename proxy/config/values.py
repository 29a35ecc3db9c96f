"""Parsers of the configuration file's text: addresses, URLs, secrets. Each raises ValueError with a reason for the operator.

No reason ever quotes a secret, or the text in place of a secret.
"""

import errno
import ipaddress
import os
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from proxy.config.quoting import masked, reads_like_a_name

PIPE_SECONDS = 10.0
"""Seconds allowed to read a pipe to its end. Its writer may be gone, and a reload that waits delays the end of the process."""
_SECRET_BYTES_MAX = 65_536
SOCKET_PATH_BYTES_MAX = 107
"""`sun_path` of Linux has 108 bytes, including the closing zero."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        return self.host == "localhost" or _is_loopback_ip(self.host)


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """The sockets that systemd opened for us (socket activation)."""

    def __str__(self) -> str:
        return "systemd"


Address = TcpAddress | UnixAddress | SystemdAddress


class Secret:
    """A secret in memory: printing or logging it shows stars; `reveal()` returns it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))


NO_SECRET = Secret("")


def parse_address(text: str, base: Path) -> Address:
    """Return the address to listen on: ``HOST:PORT``, ``[IPV6]:PORT``, ``unix:PATH`` (relative to ``base``) or ``systemd``."""
    if text == "systemd":
        return SystemdAddress()
    if text.startswith("unix:"):
        return parse_unix_address(text, base)
    return parse_tcp_address(text, 'must be "HOST:PORT", "[IPV6]:PORT", "unix:PATH" or "systemd"')


def parse_tcp_address(text: str, wanted: str = 'must be "HOST:PORT" or "[IPV6]:PORT"') -> TcpAddress:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{wanted}, not {masked(repr(text))}")
    return TcpAddress(_parse_host(host, text), int(port))


def parse_unix_address(text: str, base: Path) -> UnixAddress:
    path = text.removeprefix("unix:")
    if path == text or not path or "\0" in path:
        raise ValueError(f'must be "unix:PATH", not {masked(repr(text))}')
    absolute = base / path
    if len(bytes(absolute)) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(
            f"the socket's path is longer than {SOCKET_PATH_BYTES_MAX} bytes, which the system does not take: {masked(str(absolute))}"
        )
    return UnixAddress(absolute)


def parse_base_url(text: str) -> str:
    """Return the URL that paths are appended to, without a trailing slash."""
    parts, port = _split_url(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError('must begin with "https://" or "http://" and name a host')
    if "@" in text:
        raise ValueError("must not carry a user or a password: the key belongs to api_key")
    if "?" in text or "#" in text:
        raise ValueError("must have no query and no fragment: paths are appended to it")
    return text.rstrip("/")


def parse_proxy(text: str) -> str:
    """Return the proxy's URL, ``http://HOST:PORT``. Only such a proxy is known: it is asked for a tunnel by CONNECT."""
    parts, port = _split_url(text)
    if "@" in text:
        raise ValueError("must not carry a user or a password: they belong to proxy_auth")
    if parts.scheme != "http" or not parts.hostname or not port or parts.path not in ("", "/") or "?" in text or "#" in text:
        raise ValueError('must be "http://HOST:PORT", and no more')
    return text.rstrip("/")


def _split_url(text: str) -> tuple[SplitResult, int | None]:
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("must be a URL of printable ASCII characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its text quotes a part, which is of a password if that has a slash
        raise ValueError("is no URL: its port must be a number up to 65535, and brackets are for an IPv6 address") from None
    return parts, port


def read_secret(reference: str, base: Path, env: Mapping[str, str] | None) -> Secret:
    """Return the secret that ``env:NAME``, ``file:PATH`` (relative to ``base``) or ``credential:NAME`` (systemd) leads to.

    Without an environment only the reference is checked, and the secret is empty. A name that leads nowhere may be the secret itself,
    pasted in its place: it is quoted only if it reads like a name.
    """
    source, colon, name = reference.partition(":")
    if not colon or not name or source not in ("env", "file", "credential"):
        raise ValueError('a secret does not stand in this file: write "env:NAME", "file:PATH" or "credential:NAME" (systemd)')
    if env is None:
        return Secret("")
    if source == "env":
        return _checked(_from_env(name, env), f"the environment variable {name}")
    if source == "file":
        path = base / name
        return _checked(
            _from_file(path, f"the file {path}" if _is_quotable(name, path) else "the file that is named here"), f"the file {path}"
        )
    path = _credential_path(name, env)
    told = f"the systemd credential {name}"
    return _checked(_from_file(path, told if _is_quotable(name, path) else "the systemd credential that is named here"), told)


def read_beginning(path: Path, bytes_max: int, *, pipe_seconds: float = PIPE_SECONDS) -> bytes:
    """Return a file's content, at most ``bytes_max``. A pipe must end within ``pipe_seconds``. Raises: OSError."""
    deadline = time.monotonic() + pipe_seconds
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # else `open` itself waits for a writer
    content = b""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        while len(content) < bytes_max:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise OSError(errno.ETIMEDOUT, f"it is a pipe that nobody wrote all of within {pipe_seconds:g} s")
            piece = file.read(bytes_max - len(content))
            if piece == b"":
                break
            content += piece or b""
    return content


def _parse_host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        if not _is_ipv6(host[1:-1]):
            raise ValueError(f"{masked(repr(host[1:-1]))} is no IPv6 address")
        return host[1:-1]
    if not host:
        raise ValueError(f'names no host: write "0.0.0.0{text}" or "[::]{text}" to listen on every address')
    if ":" in host or not host.isascii() or not host.replace("-", "").replace(".", "").replace("_", "").isalnum():
        raise ValueError(f'must be "HOST:PORT", an IPv6 address in square brackets, not {masked(repr(text))}')
    return host


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_loopback_ip(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _from_env(name: str, env: Mapping[str, str]) -> str:
    if name not in env:
        told = f"the environment variable {name}" if _is_quotable(name) else "the environment variable that is named here"
        raise ValueError(f'{told} is not set: export it, or name a "file:PATH" or "credential:NAME"')
    return env[name]


def _is_quotable(name: str, path: Path | None = None) -> bool:
    """Return whether a name can be shown: it exists, or it is made of short words, which no key is."""
    return reads_like_a_name(name) or (path is not None and len(name) < SOCKET_PATH_BYTES_MAX and os.path.lexists(path))


def _credential_path(name: str, env: Mapping[str, str]) -> Path:
    directory = env.get("CREDENTIALS_DIRECTORY")
    if not directory:
        told = f"the systemd credential {name}" if _is_quotable(name) else "the systemd credential that is named here"
        raise ValueError(f"{told} is not there: CREDENTIALS_DIRECTORY is not set (LoadCredential= in the unit)")
    if "/" in name or name in (".", ".."):
        raise ValueError("the name of a credential has no slashes")
    return Path(directory) / name


def _from_file(path: Path, told: str) -> str:
    try:
        content = read_beginning(path, _SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"{told} cannot be read: {error.strerror}") from None
    return content.decode("utf-8", "replace").rstrip("\r\n")


def _checked(text: str, where: str) -> Secret:
    """Refuse text that cannot be in a header: it would fail later, perhaps in a message that quotes it."""
    if not text:
        raise ValueError(f"{where} is empty")
    if len(text) > _SECRET_BYTES_MAX or not all("!" <= char <= "~" for char in text):
        raise ValueError(f"{where} holds something that is no key: only visible ASCII characters, no blanks or line breaks")
    return Secret(text)

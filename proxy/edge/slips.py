"""Slips in an address: a path that is no route, but for slashes or its prefix, and what to say of any other.

Pure, and asked only about a path that no route has. Paths that are encoded, or go up (``..``), are not looked at: they stay unknown. An
answer names our own routes alone; it quotes nothing of the path, which may hold a key.
"""

import difflib
import re
from collections.abc import Iterable, Mapping

NOTHING = "There is nothing at this path"
_PLAIN = re.compile(r"[A-Za-z0-9/_.:-]{1,1024}")
_VERSION = re.compile(r"v[0-9]{1,2}(?:beta)?[0-9]{0,2}")
_PARTS_MAX = 16
_TYPED_CHARACTERS_MAX = 48
"""Longest path that is compared with the routes letter by letter."""
_LIKENESS = 0.8


class Slips:
    """Knows the routes of one listener."""

    def __init__(self, routes: Iterable[tuple[str, str]], prefixes: tuple[str, ...], elsewhere: Mapping[str, str]) -> None:
        """Args: routes: method and path, without a prefix, of each; elsewhere: known paths of other APIs, and what there is instead."""
        self._methods: dict[str, list[str]] = {}
        for method, path in routes:
            self._methods.setdefault(path, []).append(method)
        self._prefix = prefixes[0]
        self._words = frozenset(word for prefix in prefixes for word in prefix.split("/") if word)
        self._elsewhere = elsewhere

    def meant(self, path: str) -> str | None:
        """Return the path under the first prefix that this one is but for slashes and prefixes, or None. It may be no route."""
        parts = _parts(path)
        if parts is None:
            return None
        begin = 0
        while begin < len(parts) and parts[begin] in self._words:
            begin += 1
        return "/".join((self._prefix, *parts[begin:]))

    def not_found(self, path: str, method: str = "") -> str:
        """Return the message of a 404: the route that was meant, if one can be told."""
        parts = _parts(path)
        if parts is None or len(parts) > _PARTS_MAX:
            return NOTHING
        rest = [part.lower() for part in parts]
        while rest and (rest[0] in self._words or _VERSION.fullmatch(rest[0])):
            del rest[0]
        if not rest:
            return f"{NOTHING} itself: it is where the routes begin, such as {self._example()}"
        ends = ["/" + "/".join(rest[begin:]) for begin in range(len(rest))]
        return self._did_you_mean(ends, method) or self._is_elsewhere(ends) or self._nearly(ends[0], method) or NOTHING

    def _did_you_mean(self, ends: list[str], method: str) -> str:
        for end in ends:
            for route in (end, f"{end}/{{id}}", f"{end.rpartition('/')[0]}/{{id}}"):
                if route in self._methods:
                    return self._question(route, method)
        return ""

    def _is_elsewhere(self, ends: list[str]) -> str:
        for end in ends:
            for path, instead in self._elsewhere.items():
                if end == path or end.startswith(f"{path}/"):
                    return f"This gateway has no {path}: {instead}"
        return ""

    def _nearly(self, path: str, method: str) -> str:
        if len(path) > _TYPED_CHARACTERS_MAX:
            return ""
        near = difflib.get_close_matches(path, self._methods, n=1, cutoff=_LIKENESS)
        return self._question(near[0], method) if near else ""

    def _question(self, route: str, method: str) -> str:
        methods = self._methods[route]
        return f"{NOTHING}; did you mean {method if method in methods else methods[0]} {self._prefix}{route}?"

    def _example(self) -> str:
        route, methods = next(iter(self._methods.items()))
        return f"{methods[0]} {self._prefix}{route}"


def _parts(path: str) -> list[str] | None:
    """Return the segments of a path, without empty ones; None: it is encoded, goes up, or has characters that no route has."""
    if not _PLAIN.fullmatch(path):
        return None
    parts = [part for part in path.split("/") if part]
    return None if any(part in (".", "..") for part in parts) else parts

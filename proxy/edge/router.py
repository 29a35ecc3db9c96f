"""Maps method and path to a handler: a dict, plus routes that end in an id. The path is matched as sent, never decoded first.

`..%2f..%2fadmin` and `/%61dmin` are simply unknown: only the trailing id is unquoted, after the route is found.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from proxy.core.errors import MethodNotAllowedError, NotFoundError
from proxy.edge.context import Context
from proxy.edge.response import Response

Handler = Callable[[Context], Awaitable[Response]]

ID_SUFFIX = "/{id}"


@dataclass(frozen=True, slots=True)
class Route:
    """One public route. A path that ends in ``/{id}`` matches everything after it, slashes too."""

    method: str
    path: str
    handler: Handler
    needs_key: bool = True


@dataclass(frozen=True, slots=True)
class Match:
    route: Route
    tail: str


class Router:
    """All routes, under each of the prefixes; an empty prefix is the root."""

    def __init__(self, routes: Iterable[Route], prefixes: tuple[str, ...] = ("",), *, at_root: Iterable[Route] = ()) -> None:
        self._prefixes = prefixes
        self._at_root = {route.path: {route.method: route} for route in at_root}
        self._exact: dict[str, dict[str, Route]] = {}
        self._tailed: dict[str, dict[str, Route]] = {}
        self._by_target: dict[tuple[str, str], Route] = {}
        """The exact targets of nearly all requests (no query), found in one step."""
        for route in routes:
            if route.path.endswith(ID_SUFFIX):
                self._tailed.setdefault(route.path.removesuffix("{id}"), {})[route.method] = route
            else:
                self._exact.setdefault(route.path, {})[route.method] = route
                self._by_target.update({(route.method, prefix + route.path): route for prefix in prefixes})

    def at(self, method: str, target: str) -> Route | None:
        """Return the route whose path equals the target, or None: then `match` decides."""
        return self._by_target.get((method, target))

    def match(self, method: str, raw_path: str) -> Match:
        """Return the route of a request target and its trailing id.

        Raises:
            NotFoundError: no such path.
            MethodNotAllowedError: the path has other methods; they are in ``allow``.
        """
        methods, tail = self._methods_of(raw_path)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = self.allowed(methods)
            raise MethodNotAllowedError(f"{method[:16]} is not allowed here; use {', '.join(allowed)}", allow=allowed)
        return Match(route, tail)

    def methods(self, raw_path: str) -> tuple[str, ...]:
        """Return the methods that a path answers. Raises: NotFoundError."""
        return self.allowed(self._methods_of(raw_path)[0])

    @staticmethod
    def allowed(methods: dict[str, Route]) -> tuple[str, ...]:
        return (*sorted(methods), *(["HEAD"] if "GET" in methods else []), "OPTIONS")

    def _methods_of(self, raw_path: str) -> tuple[dict[str, Route], str]:
        path = raw_path.partition("?")[0]
        for prefix in self._prefixes:
            if path.startswith(prefix):
                return self._under_prefix(path[len(prefix) :])
        if path in self._at_root:
            return self._at_root[path], ""
        raise NotFoundError("There is nothing at this path")

    def _under_prefix(self, path: str) -> tuple[dict[str, Route], str]:
        if (exact := self._exact.get(path)) is not None:
            return exact, ""
        for prefix, methods in self._tailed.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                return methods, unquote(path[len(prefix) :], errors="replace")
        raise NotFoundError("There is nothing at this path")

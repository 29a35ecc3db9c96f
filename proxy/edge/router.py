"""Maps method and path to a handler: a dict, plus routes that end in an id. The path is matched as sent, never decoded first.

`..%2f..%2fadmin` and `/%61dmin` are simply unknown: only the trailing id is unquoted, after the route is found. A path that is no route
may be a slip (`slips.py`): of slashes or of the prefix it is served, as the same route with the same credential.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from proxy.core.errors import MethodNotAllowedError, NotFoundError
from proxy.edge.context import Context
from proxy.edge.response import Response
from proxy.edge.slips import NOTHING, Slips

Handler = Callable[[Context], Awaitable[Response]]

ID_SUFFIX = "/{id}"


@dataclass(frozen=True, slots=True)
class Route:
    """One public route. A path that ends in ``/{id}`` matches everything after it, slashes too."""

    method: str
    path: str
    handler: Handler
    needs_key: bool = True
    hint: str = ""
    """Ends the message of a 405: which route does what this one does not."""


@dataclass(frozen=True, slots=True)
class Match:
    route: Route
    tail: str


class Router:
    """All routes, under each of the prefixes; an empty prefix is the root."""

    def __init__(
        self,
        routes: Iterable[Route],
        prefixes: tuple[str, ...] = ("",),
        *,
        at_root: Iterable[Route] = (),
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        """Args: elsewhere: what to say of paths that other APIs have; None: slips are not looked for, as for the operator."""
        routes = list(routes)
        self._slips = None if elsewhere is None else Slips(((route.method, route.path) for route in routes), prefixes, elsewhere)
        self._prefixes = prefixes
        self._at_root: dict[str, dict[str, Route]] = {}
        self._tailed_at_root: dict[str, dict[str, Route]] = {}
        for route in at_root:
            if route.path.endswith(ID_SUFFIX):
                self._tailed_at_root.setdefault(route.path.removesuffix("{id}"), {})[route.method] = route
            else:
                self._at_root.setdefault(route.path, {})[route.method] = route
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
        methods, tail = self._methods_of(raw_path, method)
        route = methods.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = self.allowed(methods)
            hint = "".join(f"; {one.hint}" for one in methods.values() if one.hint)
            raise MethodNotAllowedError(f"{method[:16]} is not allowed here; use {', '.join(allowed)}{hint}", allow=allowed)
        return Match(route, tail)

    def methods(self, raw_path: str) -> tuple[str, ...]:
        """Return the methods that a path answers. Raises: NotFoundError."""
        return self.allowed(self._methods_of(raw_path)[0])

    @staticmethod
    def allowed(methods: dict[str, Route]) -> tuple[str, ...]:
        return (*sorted(methods), *(["HEAD"] if "GET" in methods else []), "OPTIONS")

    def _methods_of(self, raw_path: str, method: str = "") -> tuple[dict[str, Route], str]:
        path = raw_path.partition("?")[0]
        found = self._at_path(path)
        if found is None and self._slips is not None:
            meant = self._slips.meant(path)
            found = None if meant is None else self._at_path(meant)
        if found is None:
            raise NotFoundError(NOTHING if self._slips is None else self._slips.not_found(path, method))
        return found

    def _at_path(self, path: str) -> tuple[dict[str, Route], str] | None:
        """Return the routes of a path by their methods, and its trailing id."""
        for prefix in self._prefixes:
            if path.startswith(prefix):
                return self._under_prefix(path[len(prefix) :])
        methods = self._at_root.get(path)
        return self._by_tail(self._tailed_at_root, path) if methods is None else (methods, "")

    def _under_prefix(self, path: str) -> tuple[dict[str, Route], str] | None:
        if (exact := self._exact.get(path)) is not None:
            return exact, ""
        return self._by_tail(self._tailed, path)

    def _by_tail(self, tailed: dict[str, dict[str, Route]], path: str) -> tuple[dict[str, Route], str] | None:
        for prefix, methods in tailed.items():
            if path.startswith(prefix) and len(path) > len(prefix):
                tail = path[len(prefix) :]
                if self._slips is not None and len(tail) > 1 and tail.endswith("/"):  # an id that ends in one is asked for as %2F
                    tail = tail[:-1]
                return methods, unquote(tail, errors="replace")
        return None

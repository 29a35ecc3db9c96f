"""Metrics in Prometheus' format: counters of all events, and registration of values that can be read at any time.

Counters of requests are kept in plain dicts, of this thread only, and read at a scrape (`instruments`). Values that exist elsewhere,
such as open connections, are not counted but read at the scrape (`collectors`, `process`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from proxy.core.catalog import Kind
from proxy.core.money import NANOS_PER_YUAN
from proxy.core.settlement import Settlement
from proxy.telemetry.instruments import Labels, Level, Reading, Spread, Tally

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_COMMIT_OPERATIONS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROUTES = {Kind.CHAT: "/chat/completions", Kind.IMAGE: "/images/generations", Kind.VIDEO: "/videos/generations"}

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Sums:
    """Sums of one model's settlements: one look-up a settlement. Money is in whole nano-yuan, so that no sum is ever rounded."""

    __slots__ = ("cached_tokens", "charged_nanos", "completion_tokens", "prompt_tokens", "shortfall_nanos", "shortfalls", "units")

    def __init__(self) -> None:
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = self.units = 0
        self.charged_nanos = self.shortfall_nanos = self.shortfalls = 0

    @property
    def tokens(self) -> dict[str, int]:
        """Return token counts by direction, each token counted once."""
        fresh = self.prompt_tokens - self.cached_tokens
        return {"input": fresh, "cached": self.cached_tokens, "output": self.completion_tokens}


class Metrics:
    """The one registry, made at the start and passed to every part that counts."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Tally("llm_proxy_requests", "Requests answered.", ("route", "model", "status"), registry)
        self._outcomes = Tally(
            "llm_proxy_outcomes", "Paid requests settled, by how they ended.", ("route", "model", "outcome", "usage"), registry
        )
        self._sums: defaultdict[str, _Sums] = defaultdict(_Sums)
        self._show_sums()
        self._first_byte = Spread("llm_proxy_first_byte_seconds", "Request to first byte.", _SECONDS, registry, ("route",))
        self._total = Spread("llm_proxy_request_seconds", "Request to end of the answer.", _SECONDS, registry, ("route",))
        self._upstream_errors = Tally("llm_proxy_upstream_errors", "Failed calls upstream, by cause.", ("upstream", "cause"), registry)
        self._video_polls = Tally("llm_proxy_video_polls", "Questions about video tasks, by result.", ("upstream", "result"), registry)
        self.open_streams = self._level("llm_proxy_open_streams", "Streams being relayed or drained now.")
        self.draining_streams = self._level("llm_proxy_draining_streams", "Streams read on after their client left.")
        self._commit_operations = Spread("llm_proxy_commit_operations", "Operations in one group commit.", _COMMIT_OPERATIONS, registry)
        self._commit_seconds = Spread("llm_proxy_commit_seconds", "Duration of one group commit.", _COMMIT_SECONDS, registry)
        self._lag = Spread("llm_proxy_loop_lag_seconds", "How late the event loop comes to a timer.", _LAG_SECONDS, registry)

    def expect(self, models: Iterable[str], upstreams: Iterable[str]) -> None:
        """Show zeros for series whose very first count an alert must see."""
        for model in models:
            self._sums[model]
        for upstream in upstreams:
            self._upstream_errors.expect(upstream, "operator")

    # events

    def answered(self, route: str, model: str, status: int, first_byte_seconds: float | None, total_seconds: float) -> None:
        """Count one answer. ``model`` must be from the catalog, or empty: customers must not be able to invent label values."""
        self._requests.counts[route, model, str(status)] += 1
        self._total.observe(total_seconds, route)
        if first_byte_seconds is not None:
            self._first_byte.observe(first_byte_seconds, route)

    def settled(self, kind: Kind, model: str, settlement: Settlement) -> None:
        """Count one settlement, once it is committed."""
        usage = settlement.usage
        self._outcomes.counts[_ROUTES[kind], model, settlement.outcome, settlement.usage_source] += 1
        sums = self._sums[model]
        sums.prompt_tokens += usage.prompt_tokens
        sums.completion_tokens += usage.completion_tokens
        sums.charged_nanos += settlement.charge_nanos
        if usage.cached_tokens:
            sums.cached_tokens += usage.cached_tokens
        if settlement.units:
            sums.units += settlement.units
        if settlement.shortfall_nanos:
            sums.shortfall_nanos += settlement.shortfall_nanos
            sums.shortfalls += 1

    def video_polled(self, upstream: str, result: str) -> None:
        self._video_polls.counts[upstream, result] += 1

    def upstream_failed(self, upstream: str, cause: str) -> None:
        self._upstream_errors.counts[upstream, cause] += 1

    def committed(self, operations: int, seconds: float) -> None:
        """Count one group commit."""
        self._commit_operations.observe(operations)
        self._commit_seconds.observe(seconds)

    def loop_was_late(self, seconds: float) -> None:
        self._lag.observe(seconds)

    # values read at a scrape

    def _show_sums(self) -> None:
        """Register the sums; tokens and units only for models that had any."""

        def each(read: Callable[[_Sums], float]) -> Callable[[], dict[Labels, float]]:
            return lambda: {(model,): read(sums) for model, sums in self._sums.items()}

        def tokens() -> dict[Labels, float]:
            return {
                (model, name): count
                for model, sums in self._sums.items()
                if sums.prompt_tokens or sums.completion_tokens
                for name, count in sums.tokens.items()
            }

        def units() -> dict[Labels, float]:
            return {(model,): sums.units for model, sums in self._sums.items() if sums.units}

        described = "Tokens of chats: input without what was cached, cached, output."
        self.counters("llm_proxy_tokens", described, ("model", "direction"), tokens)
        self.counters("llm_proxy_units", "Images made, or video tokens charged.", ("model",), units)
        charged, short = (
            each(lambda sums: sums.charged_nanos / NANOS_PER_YUAN),
            each(lambda sums: sums.shortfall_nanos / NANOS_PER_YUAN),
        )
        self.counters("llm_proxy_charged_yuan", "Charged to customers, in yuan.", ("model",), charged)
        self.counters("llm_proxy_shortfall_yuan", "Usage above its hold, never charged, in yuan.", ("model",), short)
        shortfalls = each(lambda sums: sums.shortfalls)
        self.counters("llm_proxy_shortfalls", "Requests whose usage was above their hold.", ("model",), shortfalls)

    def gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read at each scrape."""
        self.gauges(name, documentation, (), lambda: {(): read()})

    def gauges(self, name: str, documentation: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Add gauges, by their label values, that are read at each scrape. An OSError leaves them out."""
        Reading(GaugeMetricFamily, name, documentation, labels, read, self._registry)

    def counter(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Add a counter that is kept elsewhere."""
        self.counters(name, documentation, (), lambda: {(): read()})

    def counters(self, name: str, documentation: str, labels: Labels, read: Callable[[], Mapping[Labels, float]]) -> None:
        """Add counters, by their label values, that are kept elsewhere."""
        Reading(CounterMetricFamily, name, documentation, labels, read, self._registry)

    def _level(self, name: str, documentation: str) -> Level:
        level = Level()
        self.gauge(name, documentation, lambda: level.value)
        return level

    def render(self) -> bytes:
        """Return the text of `/metrics`."""
        return generate_latest(self._registry)

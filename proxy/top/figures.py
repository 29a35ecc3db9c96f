"""The figures on the screen, computed from two scrapes. Pure. None: unknown, as the gateway does not say, or has said it only once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from proxy.top.exposition import Scrape

CLASSES = ("2xx", "4xx", "5xx")
Number = float | None


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of durations in milliseconds, as upper bounds of histogram buckets: half of the durations were at most `p50`."""

    p50_ms: Number
    p99_ms: Number


@dataclass(frozen=True, slots=True)
class ModelRow:
    model: str
    requests: Number
    input_tokens: Number
    output_tokens: Number
    yuan_a_minute: Number
    yuan: Number
    failed: Number


@dataclass(frozen=True, slots=True)
class UpstreamRow:
    upstream: str
    busy: Number
    idle: Number
    errors: Number
    causes: Mapping[str, float]
    """Errors a second of each cause that occurred since the last scrape; on the first scrape, errors since the start."""
    resting: Number = None
    """Models that rest under one of its keys, whole keys included."""


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one frame. Rates are per second unless the name says otherwise."""

    seconds: Number
    """Seconds between the two scrapes; None: there was only one."""
    requests: Number
    by_class: Mapping[str, Number]
    in_flight: Number
    connections: Number
    first_byte: Spread
    answer: Spread
    streams: Number
    draining_streams: Number
    input_tokens: Number
    cached_tokens: Number
    output_tokens: Number
    yuan_a_minute: Number
    yuan: Number
    held_yuan: Number
    shortfall_yuan: Number
    commits: Number
    operations_a_commit: Number
    commit: Spread
    waiting_operations: Number
    log_bytes: Number
    store_bytes: Number
    loop_lag: Spread
    is_draining: bool
    videos: Mapping[str, float]
    upstreams: Sequence[UpstreamRow]
    models: Sequence[ModelRow]


def figures(now: Scrape, before: Scrape | None) -> Figures:
    """Return the figures. With ``before`` None, only those that need no second scrape."""
    rates = _Rates(now, before)
    operations, commits = rates("llm_proxy_commit_operations_sum"), rates("llm_proxy_commit_operations_count")
    return Figures(
        seconds=rates.seconds,
        requests=rates("llm_proxy_requests_total"),
        by_class={name: rates.of_class(name) for name in CLASSES},
        in_flight=now.total("llm_proxy_requests_in_flight"),
        connections=now.total("llm_proxy_client_connections"),
        first_byte=rates.spread("llm_proxy_first_byte_seconds"),
        answer=rates.spread("llm_proxy_request_seconds"),
        streams=now.total("llm_proxy_open_streams"),
        draining_streams=now.total("llm_proxy_draining_streams"),
        input_tokens=rates("llm_proxy_tokens_total", direction="input"),
        cached_tokens=rates("llm_proxy_tokens_total", direction="cached") or None,
        output_tokens=rates("llm_proxy_tokens_total", direction="output"),
        yuan_a_minute=_times(rates("llm_proxy_charged_yuan_total"), 60),
        yuan=now.total("llm_proxy_charged_yuan_total"),
        held_yuan=now.total("llm_proxy_held_yuan") or now.total("llm_proxy_cluster_held_yuan"),
        shortfall_yuan=now.total("llm_proxy_shortfall_yuan_total"),
        commits=commits,
        operations_a_commit=operations / commits if operations is not None and commits else None,
        commit=rates.spread("llm_proxy_commit_seconds"),
        waiting_operations=now.total("llm_proxy_store_waiting_operations"),
        log_bytes=now.total("llm_proxy_wal_bytes"),
        store_bytes=now.total("llm_proxy_store_bytes"),
        loop_lag=rates.spread("llm_proxy_loop_lag_seconds"),
        is_draining=bool(now.total("llm_proxy_draining")),
        videos={state: now.total("llm_proxy_video_tasks", state=state) or 0 for state in now.values("llm_proxy_video_tasks", "state")},
        upstreams=[_upstream(rates, name) for name in _upstreams(now)],
        models=_models(rates),
    )


class _Rates:
    """Growth of counters per second between two scrapes."""

    def __init__(self, now: Scrape, before: Scrape | None) -> None:
        self.now = now
        self.before = before
        self.seconds = None if before is None or now.at <= before.at else now.at - before.at

    def __call__(self, name: str, **labels: str) -> Number:
        """Return the rate; None without an earlier scrape, or if a restart of the gateway reset the counters."""
        total = self.now.total(name, **labels)
        if self.before is None or self.seconds is None or total is None:
            return None
        grown = total - (self.before.total(name, **labels) or 0)
        return grown / self.seconds if grown >= 0 else None

    def of_class(self, name: str) -> Number:
        found = [self("llm_proxy_requests_total", status=status) for status in self._statuses() if status[0] == name[0]]
        known = [rate for rate in found if rate is not None]
        if self.seconds is None or len(known) < len(found):
            return None
        return sum(known)

    def _statuses(self) -> list[str]:
        return self.now.values("llm_proxy_requests_total", "status")

    def spread(self, name: str) -> Spread:
        """Return the quantiles of what a histogram counted between the scrapes, or in total if there was only one scrape."""
        buckets: dict[float, float] = {}
        for scrape, sign in ((self.now, 1), (self.before, -1)):
            for line in scrape.find(f"{name}_bucket") if scrape else ():
                bound = float(line.labels["le"])
                buckets[bound] = buckets.get(bound, 0) + sign * line.value
        ordered = sorted(buckets.items())
        if any(later < earlier for (_, earlier), (_, later) in pairwise(ordered)):  # the counters were reset
            return Spread(None, None)
        return Spread(_quantile(ordered, 0.5), _quantile(ordered, 0.99))


def _quantile(buckets: Sequence[tuple[float, float]], part: float) -> Number:
    """Return the upper bound, in ms, of the bucket with the quantile; for the last bucket, which has none, the lower bound."""
    count = buckets[-1][1] if buckets else 0
    if count <= 0:
        return None
    place = next(index for index, (_, below) in enumerate(buckets) if below >= part * count)
    bound = buckets[place][0] if place < len(buckets) - 1 else buckets[max(0, place - 1)][0]
    return bound * 1000


def _upstreams(now: Scrape) -> list[str]:
    named = (now.values(name, "upstream") for name in ("llm_proxy_upstream_connections", "llm_proxy_upstream_errors_total"))
    return sorted({upstream for found in named for upstream in found})


def _upstream(rates: _Rates, name: str) -> UpstreamRow:
    now, errors = rates.now, "llm_proxy_upstream_errors_total"
    causes = sorted({line.labels["cause"] for line in now.find(errors, upstream=name)})
    if rates.seconds is None:
        counts = {cause: now.total(errors, upstream=name, cause=cause) or 0 for cause in causes}
    else:
        counts = {cause: rates(errors, upstream=name, cause=cause) or 0 for cause in causes}
    return UpstreamRow(
        upstream=name,
        busy=now.total("llm_proxy_upstream_connections", upstream=name, state="busy"),
        idle=now.total("llm_proxy_upstream_connections", upstream=name, state="idle"),
        errors=rates(errors, upstream=name),
        resting=now.total("llm_proxy_resting", upstream=name),
        causes={cause: count for cause, count in counts.items() if count},
    )


def _models(rates: _Rates) -> list[ModelRow]:
    """Return the models that had requests or charges, the busiest first."""
    names = {name for name in rates.now.values("llm_proxy_requests_total", "model") if name}
    names |= {line.labels["model"] for line in rates.now.find("llm_proxy_charged_yuan_total") if line.value}
    rows = [_model(rates, name) for name in names]
    return sorted(rows, key=lambda row: (-(row.requests or 0), -(row.yuan or 0), row.model))


def _model(rates: _Rates, name: str) -> ModelRow:
    failed = [
        rates("llm_proxy_requests_total", model=name, status=line.labels["status"])
        for line in rates.now.find("llm_proxy_requests_total", model=name)
        if line.labels["status"][0] == "5"
    ]
    return ModelRow(
        model=name,
        requests=rates("llm_proxy_requests_total", model=name),
        input_tokens=rates("llm_proxy_tokens_total", model=name, direction="input"),
        output_tokens=rates("llm_proxy_tokens_total", model=name, direction="output"),
        yuan_a_minute=_times(rates("llm_proxy_charged_yuan_total", model=name), 60),
        yuan=rates.now.total("llm_proxy_charged_yuan_total", model=name),
        failed=None if rates.seconds is None else sum(rate or 0 for rate in failed),
    )


def _times(rate: Number, factor: float) -> Number:
    return None if rate is None else rate * factor

"""One scrape of `/metrics`, and queries of it. A missing metric is None: the gateway is older, or has not counted anything yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

OPERATORS_ROUTES = ("/metrics", "/operations/{id}", "/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Line:
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Scrape:
    at: float
    """Time of the scrape, in monotonic seconds."""
    lines: Mapping[str, tuple[Line, ...]]
    declared: frozenset[str] = frozenset()
    """Names of all counters of the gateway, including those that have counted nothing yet."""

    def find(self, name: str, **labels: str) -> Iterator[Line]:
        """Yield the lines of a metric that have these labels."""
        for line in self.lines.get(name, ()):
            if labels.items() <= line.labels.items():
                yield line

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum of those lines; None if there are none, but 0 for a counter that has counted nothing."""
        found = [line.value for line in self.find(name, **labels)]
        return sum(found) if found or name in self.declared else None

    def values(self, name: str, label: str) -> list[str]:
        """Return the values of a label, sorted."""
        return sorted({line.labels[label] for line in self.find(name) if label in line.labels})


def parse(text: str, at: float) -> Scrape:
    """Return a scrape without the operator's own requests. Raises: ValueError: not the text format of Prometheus."""
    lines: dict[str, list[Line]] = {}
    declared: set[str] = set()
    for family in text_string_to_metric_families(text):
        if family.type == "counter":
            declared.add(f"{family.name}_total")
        for sample in family.samples:
            if sample.labels.get("route") not in OPERATORS_ROUTES and sample.labels.get("door") != "admin":
                lines.setdefault(sample.name, []).append(Line(sample.labels, sample.value))
    return Scrape(at, {name: tuple(found) for name, found in lines.items()}, frozenset(declared))

"""A scraper: reads metrics as Prometheus does, with the parser of its client library."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

SCRAPED = 'metrics_listen = "127.0.0.1:{port}"'
"""A value for the ``admin`` option of a gateway under test."""
_GROWING = ("counter", "histogram")

Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape. A series is a sample's name with its labels."""

    kinds: Mapping[str, str]
    """The type of each metric family, by name."""
    values: Mapping[Series, float]
    growing: frozenset[Series]
    """Series that must never fall while the process lives."""

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have at least these labels; 0 if there are none."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.values.items() if found == name and wanted <= has)

    @property
    def names(self) -> frozenset[str]:
        """The names of all samples."""
        return frozenset(name for name, _ in self.values)

    def fallen_since(self, earlier: "Scrape") -> list[str]:
        """Return the growing series that have fallen or disappeared."""
        return [
            f"{name}{dict(labels)}: {earlier.values[name, labels]} → {self.values.get((name, labels))}"
            for name, labels in earlier.growing
            if self.values.get((name, labels), -1.0) < earlier.values[name, labels]
        ]


def parsed(text: str) -> Scrape:
    """Return a parsed exposition. Raises: ValueError: it is malformed, or has a series twice."""
    kinds: dict[str, str] = {}
    values: dict[Series, float] = {}
    growing: set[Series] = set()
    for family in text_string_to_metric_families(text):
        if family.name in kinds:
            raise ValueError(f"{family.name} stands there twice")
        kinds[family.name] = family.type
        for sample in family.samples:
            series = (sample.name, frozenset(sample.labels.items()))
            if series in values:
                raise ValueError(f"{series} stands there twice")
            values[series] = sample.value
            if family.type in _GROWING:
                growing.add(series)
    return Scrape(kinds, values, frozenset(growing))


async def scrape_socket(socket: Path) -> Scrape:
    """Scrape the admin socket."""
    connector = aiohttp.UnixConnector(str(socket))
    async with aiohttp.ClientSession(connector=connector) as session:
        return await scrape(session, "http://admin")


async def scrape(session: aiohttp.ClientSession, address: str) -> Scrape:
    """Scrape an address over a keep-alive connection, as Prometheus does."""
    async with session.get(f"{address}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return parsed(await answer.text())


def fallen(scrapes: Iterable[Scrape]) -> list[str]:
    """Return the series that fell between any two successive scrapes."""
    return [word for earlier, later in pairwise(scrapes) for word in later.fallen_since(earlier)]

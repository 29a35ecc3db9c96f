"""Timestamps as the published API writes them."""

from datetime import UTC, datetime, timedelta, timezone

from proxy.core.days import Zone


def iso(at_ms: int) -> str:
    """Return ISO-8601 with milliseconds and Z: ``2024-03-10T08:00:00.000Z``."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def local_iso(at_ms: int, zone: Zone) -> str:
    """Return ISO-8601 with milliseconds by the clock of a zone: ``2024-03-10T16:00:00.000+08:00``."""
    return datetime.fromtimestamp(at_ms / 1000, timezone(timedelta(minutes=zone.minutes))).isoformat(timespec="milliseconds")


def iso_or_none(at_ms: int | None) -> str | None:
    return None if at_ms is None else iso(at_ms)

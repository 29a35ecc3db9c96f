"""Which server takes the writes: of several hosts, the primary of the newest timeline that this process has ever seen.

A standby that is promoted begins a timeline, one above that of the primary it followed. By its own an old primary is known that comes
back, or that only some can still reach: it is refused, for what it takes is lost to everybody who goes by the new one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakKeyDictionary

import asyncpg

logger = logging.getLogger(__name__)

C = TypeVar("C")

PORT = 5432
SURVEY_SECONDS = 1.0
_OF_STANDBYS = ("standby", "prefer-standby", "read-only")
"""``target_session_attrs`` of a URL that does not ask for a primary."""
_STANDING = """
    SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()),
      CASE WHEN pg_is_in_recovery() THEN 0 ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END"""


class NotPrimaryError(ConnectionError):
    """No host is a primary that may be written to."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a server is."""

    is_standby: bool
    cluster: int = 0
    """The identifier that a primary and its standbys share. 0: not known, as where a platform of its own stands in for them."""
    timeline: int = 0


class Conn(Protocol):
    """The part of a connection that is needed here."""

    def terminate(self) -> None: ...


class Timelines:
    """The newest timeline of each cluster that was seen, and which connections are of it."""

    def __init__(self) -> None:
        self._newest: dict[int, int] = {}
        self._open: WeakKeyDictionary[Conn, Standing] = WeakKeyDictionary()

    def accept(self, connection: Conn, its: Standing, host: str) -> None:
        """Take in a connection, and end those to a primary that it shows to be an old one.

        Raises: NotPrimaryError: it is an old one itself.
        """
        newest = self._newest.get(its.cluster, 0)
        if its.is_standby or not its.timeline:
            return
        if its.timeline < newest:
            raise NotPrimaryError(f"{host} is a primary of old: its timeline is {its.timeline}, and {newest} has been seen")
        if newest and its.timeline > newest:
            logger.warning("%s is the primary from now on: its timeline is %d, %d before", host, its.timeline, newest)
        self._newest[its.cluster] = its.timeline
        for other, standing in list(self._open.items()):
            if standing.cluster == its.cluster and standing.timeline < its.timeline:
                other.terminate()
        self._open[connection] = its


def hosts_of(url: str) -> list[tuple[str, int]]:
    """Return host and port of each server that a URL names, if it names several and asks for a primary; else nothing."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if query.get("target_session_attrs", [""])[0] in _OF_STANDBYS:
        return []
    named = query["host"][0] if "host" in query else unquote(parts.netloc.rpartition("@")[2])
    ports = query.get("port", [""])[0].split(",")
    hosts = []
    for place, host in enumerate(named.split(",")):
        name, own_port = _split(host)
        hosts.append((name, int(own_port or ports[place if place < len(ports) else 0] or PORT)))
    return hosts if len(hosts) > 1 else []


def _split(host: str) -> tuple[str, str]:
    """Return name and port of ``host``, ``host:port``, ``[::1]:port`` or a socket's directory."""
    if host.startswith("/"):
        return host, ""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = host.partition(":")
    return name, port


async def standing_of(fetchrow: Callable[[str], Awaitable[Sequence[object]]]) -> Standing:
    """Return what a server is. Raises: what the connection does."""
    with suppress(asyncpg.UndefinedFunctionError, asyncpg.FeatureNotSupportedError, asyncpg.InsufficientPrivilegeError):
        is_standby, cluster, timeline = await fetchrow(_STANDING)
        return Standing(is_standby is True, int(str(cluster)), int(str(timeline)))
    (is_standby,) = await fetchrow("SELECT pg_is_in_recovery()")  # Aurora, for one, has no such files, and fences old primaries itself
    return Standing(is_standby is True)


@dataclass(slots=True)
class Found(Generic[C]):
    """What came of looking at one host: a connection to a server, or why there is none."""

    host: str
    connection: C | None = None
    standing: Standing | None = None
    fault: str = ""


async def survey(
    hosts: Sequence[tuple[str, int]],
    connect: Callable[[str, int], Awaitable[tuple[C, Standing]]],
    close: Callable[[C], Awaitable[None]],
    faults: tuple[type[Exception], ...],
) -> tuple[C, Standing, str]:
    """Look at all hosts at once; return connection, standing and name of the primary of the newest timeline, and close the others.

    Once one primary has answered, the others have `SURVEY_SECONDS` left: a host that is gone may not answer at all.

    Raises: NotPrimaryError: none is, or there are primaries of two clusters.
    """
    loop = asyncio.get_running_loop()
    limits: list[asyncio.Timeout] = []
    found: list[Found[C]] = []

    async def look(host: str, port: int) -> None:
        its = Found[C](host)
        found.append(its)
        try:
            async with asyncio.timeout(None) as limit:
                limits.append(limit)
                try:
                    its.connection, its.standing = await connect(host, port)
                finally:
                    limits.remove(limit)
        except faults as error:
            its.fault = str(error) or type(error).__name__
            return
        if not its.standing.is_standby:
            for other in limits:
                if other.when() is None:  # the first that answers counts
                    other.reschedule(loop.time() + SURVEY_SECONDS)

    chosen: C | None = None
    try:
        await asyncio.gather(*(look(*host) for host in hosts))
        newest = _newest(found)
        chosen = newest[0]
        return newest
    finally:
        for one in found:
            if one.connection is not None and one.connection is not chosen:
                await close(one.connection)


def _newest(found: Sequence[Found[C]]) -> tuple[C, Standing, str]:
    """Return the primary of the newest timeline; of two alike, the one that is named first. Raises: NotPrimaryError."""
    primaries = [
        (one.connection, one.standing, one.host)
        for one in found
        if one.connection is not None and one.standing is not None and not one.standing.is_standby
    ]
    if not primaries:
        why = "; ".join(f"{one.host}: {one.fault or 'a standby'}" for one in found)
        raise NotPrimaryError(f"no host is a primary ({why})")
    if len({standing.cluster for _, standing, _ in primaries}) > 1:
        raise NotPrimaryError(f"{' and '.join(host for *_, host in primaries)} are no copies of one another, and all take writes")
    return max(primaries, key=lambda primary: primary[1].timeline)

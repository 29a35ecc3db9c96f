"""Facts about a database server that keeps a store, as `proxy.store.inspect` finds them: `doctor` judges them."""

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.store.peers import NodeState

CLOCK_SECONDS_MAX = 2.0
"""A gateway whose clock is further from the database's does not start: due times, periods and claims are read by all of them."""
CLOCK_SECONDS_COMFORT = 0.5


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """How far another clock is ahead of this machine's; negative: behind."""

    seconds: float
    doubt_seconds: float
    """It may be so much more or less: half of the time that the question took."""

    @property
    def surely_seconds(self) -> float:
        """Return by how much the clocks differ at least."""
        return max(0.0, abs(self.seconds) - self.doubt_seconds)

    def __str__(self) -> str:
        return f"{abs(self.seconds):.1f} s {'ahead of' if self.seconds > 0 else 'behind'}"


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """Version 0: the database is empty."""

    version: int
    known: int
    """The newest that this program knows."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What one look at a server and its database shows."""

    name: str
    """User, host and database, without a password."""
    version: str
    is_supported: bool
    version_min: str
    is_standby: bool
    """It replays another server's writes and takes none."""
    settings: Mapping[str, str]
    """``fsync``, ``full_page_writes``, ``synchronous_commit``, ``synchronous_standby_names`` and ``max_connections``, for this role."""
    standbys: int
    """Servers that follow this one."""
    connections: int
    """Open to it now, of whomever."""
    is_pooled: bool
    """A pooler stands in between."""
    round_trip_seconds: float
    clock: ClockOffset
    """The database's."""
    role: str
    is_superuser: bool
    schema: SchemaFacts
    lacking: tuple[str, ...]
    """Privileges that a gateway needs and this role has not, such as ``UPDATE on accounts``."""
    may_migrate: bool
    """Whether this role can bring the schema to a newer version."""
    nodes: tuple[NodeState, ...]

"""`Peers`: the part of the store's contract that only an engine has which several processes write to at once. They are its nodes."""

from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

STILL_SECONDS = 6.0
"""A beat that has not come for so long stands still, as people are told: three are missing."""


FORGET_NODES_MAX = 1_000
"""Dead nodes that are forgotten in one transaction."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a gateway tells of itself."""

    address: str
    """Where it answers customers; of several, separated by spaces."""
    settings: str
    """Digest of the configuration in force (`proxy.config.digest`)."""
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class NodeState:
    """A living node, as it stands in the store."""

    id: int
    name: str
    """Host and process."""
    program: str
    """Version of the program."""
    serves: bool
    """False: it carries out an operator's command."""
    introduction: Introduction
    entered_at_ms: int
    silent_seconds: float
    """Since its last beat, by the clock of the database alone."""
    keys_behind: int
    """Changes of keys, accounts and limits that it does not go by yet."""

    @property
    def is_still(self) -> bool:
        """Return whether beats are missing: the process is stopped, dead, or cut off, and the others are about to set it dead."""
        return self.silent_seconds >= STILL_SECONDS


class Peers(Protocol):
    """This process as one of the nodes that write to a store, and what it knew of the others at its last look, some seconds ago."""

    @property
    def node(self) -> int:
        """This node's id. Nodes that came later have higher ones."""

    @property
    def living(self) -> frozenset[int]:
        """The nodes that nobody has set dead, this one among them."""

    @property
    def serving(self) -> tuple[int, ...]:
        """Those of them that answer customers, in the order in which they came. Others carry out an operator's command."""

    @property
    def is_counted(self) -> bool:
        """Whether every node that may buy shares limits out to this one, too: once all have said so, or a lease after its coming."""

    def saw_nodes(self, nodes: Sequence[int]) -> None:
        """Tell the others whom this node shares limits out to from now on: those of `serving` whose shares are in force."""

    @property
    def lease_seconds(self) -> float:
        """Time that a node's beat may stand still before the others set it dead."""

    @property
    def unconfirmed_seconds(self) -> float:
        """Time since this node is known to have lived, the process's and the machine's sleep included.

        From a lease on it may be dead, and what it holds released: so nothing is bought from half a lease on.
        """

    async def looked(self) -> None:
        """Return after the next look."""

    @property
    def keys_version(self) -> int:
        """Counts the changes of keys, accounts and limits, by whichever node."""

    @property
    def keys_seconds(self) -> float:
        """Time since it was last known that no version is newer than the one that `saw_keys` told."""

    def saw_keys(self, version: int) -> None:
        """Tell the others that this node goes by a version of the keys from now on."""

    async def all_saw_keys(self) -> None:
        """Return once all nodes that serve go by the keys as they are stored now, or are dead: within a lease and some beats.

        Raises: NotSeenError: one has not said so in that time.
        """

    def introduce(self, introduction: Introduction) -> Future[None]:
        """Tell whoever lists the nodes of this one."""

    @property
    def is_asked_to_leave(self) -> bool:
        """Whether an operator asked this node to end (`dismiss`)."""

    async def dismiss(self, node: int) -> bool:
        """Ask a gateway to end as by SIGTERM; return once it is gone: whether it left, or (False) was found dead meanwhile.

        Raises: StoreRefusedError: there is no such gateway, or it is dead already.
        """

    async def take_job(self, name: str) -> bool:
        """Take a job that one node does for all, unless another living one has it; return whether this node has it."""

    def forget_dead(self) -> Future[int]:
        """Forget nodes that were set dead a day ago and left nothing open, at most `FORGET_NODES_MAX`; return how many those were."""

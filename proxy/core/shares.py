"""How limits are shared out among gateways that count each for itself: never more in all than the limit. Pure.

Each living node that serves has a place in an order, which differs from key to key and is the same on every node. With m nodes in its
view, the node at place r (from 0) has ceil((limit - r) / m) of a limit: as many as there are numbers below the limit that leave r when
divided by m. So the shares of one view add up to the limit exactly, also where there are fewer than nodes: some then have none.

Views differ for a moment, and the sum stays within the limit all the same. A node counts as active from when it `is_counted` (each
node before it has said that it has this one in its view, or it came a lease ago) until half a lease after its last confirmed beat.
Every active node's view then has all active nodes in it: whoever has beaten within half a lease has seen what came a lease ago, one
that came later has seen what was there, and a node that another has set dead has not been active for half a lease. In a larger view a
node's place is not lower and m not smaller, so its share is not larger than in the view of the active nodes alone.
"""

from collections.abc import Iterable

from msgspec import Struct

_BITS_64 = 2**64 - 1


class Share(Struct, frozen=True):
    """A node's part of limits."""

    place: int
    nodes: int
    """0: this node has no part yet."""

    def of(self, limit: int) -> int:
        """Return how much of a limit this node may give away: a whole number, perhaps none."""
        return max(0, -((self.place - limit) // self.nodes)) if self.nodes else 0

    def of_rate(self, per_second: float) -> float:
        """Return how many calls a second this node may make; 0: none.

        Whole numbers, as far as there is one for each node: calls are spaced evenly, so none of any one second is one too many.
        """
        if self.nodes <= 1:
            return per_second * self.nodes
        return float(self.of(int(per_second))) if per_second >= self.nodes else per_second / self.nodes


WHOLE = Share(0, 1)
"""Of a process that is alone."""
NONE = Share(0, 0)


def share_of(node: int, nodes: Iterable[int], salt: int) -> Share:
    """Return a node's share among all in its view, which are told by their ids.

    Args: salt: of the key or account, so that the remainders of many limits do not all fall to the same node.
    """
    mine = _order(node, salt)
    others = [_order(other, salt) for other in nodes if other != node]
    return Share(sum(other < mine for other in others), len(others) + 1)


def _order(node: int, salt: int) -> tuple[int, int]:
    mixed = (node << 32 ^ salt) * 0x9E3779B97F4A7C15 & _BITS_64  # splitmix64's finalizer
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _BITS_64
    return mixed ^ mixed >> 27, node

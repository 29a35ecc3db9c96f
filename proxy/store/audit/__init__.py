"""What must be so of the books, whichever engine keeps them: the invariants of the contract, each as two queries."""

from proxy.store.audit import accounts, customers, opened, spend, tasks
from proxy.store.audit.invariant import Invariant

INVARIANTS: tuple[Invariant, ...] = (
    *accounts.INVARIANTS,
    *tasks.INVARIANTS,
    *customers.PAYMENTS,
    *accounts.FOLDED,
    *spend.INVARIANTS,
    *customers.INVARIANTS,
)
"""All of them, for `Dialect.of_all`."""
OPEN_INVARIANTS = opened.INVARIANTS
"""Of accounts and what is open, for `Dialect.of_open`."""

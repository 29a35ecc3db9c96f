"""The books as a start finds them: whether they hold, and whom calls without a key are charged to."""

import logging

from proxy.clock import Clock
from proxy.core.money import Nanos
from proxy.store.contract import Store
from proxy.store.errors import AccountNotFoundError, StoreRefusedError
from proxy.store.values import Grant

logger = logging.getLogger(__name__)

DEFAULT_ACCOUNT = "default"
"""The account that all calls are charged to where no keys are used."""


async def anonymous_grant(store: Store, clock: Clock) -> Grant:
    """Return the grant of `DEFAULT_ACCOUNT`, which is created where it is not there yet."""
    try:
        account = await store.account(DEFAULT_ACCOUNT)
    except AccountNotFoundError:
        account = await store.create_account(DEFAULT_ACCOUNT, Nanos(0), clock.now_ms())
        logger.warning("created the account %r; credit it with `llm-proxy account credit %s AMOUNT`", *(DEFAULT_ACCOUNT,) * 2)
    return Grant(sha256=b"", key_id="", account_id=account.id, account_name=account.name)


async def require_balanced(store: Store) -> None:
    """Let nobody in where the books of what is open do not hold: what is booked on top of them would be wrong too.

    Raises: StoreRefusedError.
    """
    faults = [f"{check.name}: {'; '.join(check.offenders)}" for check in await store.verify_open() if not check.holds]
    if faults:
        raise StoreRefusedError(f"the books do not hold, {', '.join(faults)}: `llm-proxy ledger verify` says more; restore a backup")

"""The books at start: a check that they balance, and the account for calls without a key."""

import logging

from proxy.clock import Clock
from proxy.core.money import Nanos
from proxy.store.contract import Store
from proxy.store.errors import AccountExistsError, AccountNotFoundError, StoreRefusedError
from proxy.store.values import Account, Grant

logger = logging.getLogger(__name__)

DEFAULT_ACCOUNT = "default"
"""The account charged for all calls if no keys are used."""


async def anonymous_grant(store: Store, clock: Clock) -> Grant:
    """Return the grant of `DEFAULT_ACCOUNT`, which is created if missing. Raises: StoreRefusedError: it is closed."""
    try:
        account = await store.account(DEFAULT_ACCOUNT)
    except AccountNotFoundError:
        account = await _default_account(store, clock)
    if account.closed_at_ms is not None:
        raise StoreRefusedError(
            f'the account {DEFAULT_ACCOUNT!r}, which pays for calls without a key, is closed: set server.auth to "keys"'
        )
    return Grant(sha256=b"", key_id="", account_id=account.id, account_name=account.name)


async def _default_account(store: Store, clock: Clock) -> Account:
    """Return `DEFAULT_ACCOUNT`, created now, perhaps by another gateway that starts at the same time."""
    try:
        account = await store.create_account(DEFAULT_ACCOUNT, Nanos(0), clock.now_ms())
    except AccountExistsError:
        return await store.account(DEFAULT_ACCOUNT)
    logger.warning("created the account %r; credit it with `llm-proxy account credit %s AMOUNT`", *(DEFAULT_ACCOUNT,) * 2)
    return account


async def require_balanced(store: Store) -> None:
    """Refuse to start if the books of open requests do not balance: later entries would be wrong too.

    Raises: StoreRefusedError.
    """
    faults = [f"{check.name}: {'; '.join(check.offenders)}" for check in await store.verify_open() if not check.holds]
    if faults:
        raise StoreRefusedError(f"the books do not hold, {', '.join(faults)}: `llm-proxy ledger verify` says more; restore a backup")

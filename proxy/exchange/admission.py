"""The way in of paid calls: their bodies, and who may not begin another call just now."""

from typing import Any

from proxy.billing.idempotency import Idempotency
from proxy.core.errors import InsufficientBalanceError
from proxy.edge.body import BodyReader
from proxy.edge.context import Context
from proxy.live.settings import Live
from proxy.store.contract import Accounts


class Admission:
    """Reads the bodies of paid calls. A large one is read and parsed only for an account that has anything left."""

    def __init__(self, *, accounts: Accounts, idempotency: Idempotency, bodies: BodyReader, live: Live) -> None:
        self._accounts = accounts
        self._idempotency = idempotency
        self._bodies = bodies
        self._live = live

    async def body(self, context: Context, here: bytes | bytearray = b"") -> Any:
        """Return the parsed body, of which ``here`` are the bytes if they have been taken already.

        Raises:
            InsufficientBalanceError: the account has nothing available, and the body may be large. It has not been read.
            GatewayError, ConnectionError: as `BodyReader.json`.
        """
        if self._bodies.may_be_large(context.request):
            await self._look_at_balance(context)
        return await self._bodies.json(context, here)

    async def _look_at_balance(self, context: Context) -> None:
        """Refuse a call that cannot be paid, whatever it asks: not one that repeats an earlier one, nor where something is free."""
        if self._live.now.sells_for_nothing:
            return
        account = await self._accounts.account_by_id(context.account_id)
        if account.available_nanos > 0 or await self._idempotency.is_claimed(context):
            return
        raise InsufficientBalanceError("The account has nothing available; please top up")

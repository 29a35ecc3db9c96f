"""The time zone of the ledger's days: one for all nodes."""

from proxy.core.days import Zone
from proxy.store import refusals
from proxy.store.errors import StoreRefusedError
from proxy.store.postgres import counting
from proxy.store.postgres.connection import Connection


async def adopt(connection: Connection, zone: Zone) -> None:
    """Count the days of the ledger in a time zone from now on: rebuild what was spent in another. Nobody else opens it meanwhile.

    Raises: StoreRefusedError: requests are folded into days of another zone, which nothing can cut again, or another node counts in it.
    """
    before = await zone_of(connection)
    if before == zone:
        return
    if before is not None:
        if await connection.fetchval("SELECT EXISTS (SELECT 1 FROM request_days)"):
            raise refusals.folded_in_another_zone(before, zone)
        if names := await connection.fetchval("SELECT string_agg(name, ', ') FROM nodes WHERE dead_at IS NULL"):
            raise StoreRefusedError(
                f'other gateways ({names}) count days in the time zone "{before}": set billing.time_zone = "{before}", '
                f'or stop them all before one starts with "{zone}"'
            )
    await connection.execute(
        "INSERT INTO facts (name, value) VALUES ('zone_minutes', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        zone.minutes,
    )
    await connection.execute("DELETE FROM spend")
    await counting.rebuild(connection)


async def zone_of(connection: Connection) -> Zone | None:
    """Return the time zone of the ledger's days; None: it has not been opened to write yet."""
    minutes = await connection.fetchval("SELECT value FROM facts WHERE name = 'zone_minutes'")
    return None if minutes is None else Zone(minutes)

"""The check at the end of every test that moves money."""

import pytest

from proxy.store.contract import Store


async def assert_books_balance(store: Store) -> None:
    """Fail with the rows that break an invariant. Return only if all invariants were checked and hold."""
    checks = await store.verify()
    assert checks, "verify checked nothing"
    broken = [f"{check.name} ({check.figures}): {'; '.join(check.offenders)}" for check in checks if not check.holds]
    if broken:
        pytest.fail("the books do not balance:\n" + "\n".join(broken), pytrace=False)

"""The last line of every test that moves money."""

import pytest

from proxy.store.contract import Store


async def assert_books_balance(store: Store) -> None:
    """Fail with the rows that break an invariant; return only if each of them was checked and holds."""
    checks = await store.verify()
    assert checks, "verify checked nothing"
    broken = [f"{check.name} ({check.figures}): {'; '.join(check.offenders)}" for check in checks if not check.holds]
    if broken:
        pytest.fail("the books do not balance:\n" + "\n".join(broken), pytrace=False)

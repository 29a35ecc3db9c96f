"""Fixtures for whoever needs the whole gateway."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gateway import Bench, bench


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Bench]:
    """A running gateway with one account of ¥100, its key, and Ark's stand-in; its books are checked at the end."""
    async with bench(tmp_path) as running:
        yield running

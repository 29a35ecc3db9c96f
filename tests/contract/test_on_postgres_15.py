"""A part of the suite on the oldest PostgreSQL that is supported, 15, beside the newest that all of it runs on."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.store.postgres import migrations
from tests.support.postgres import VARIABLE

ROOT = Path(__file__).parents[2]
BINARIES = Path("/usr/lib/postgresql/15/bin")
CHOSEN = (
    *(f"tests/contract/test_contract_{name}.py" for name in ("money", "owners")),
    *(f"tests/unit/store/postgres/test_{name}.py" for name in ("book", "node", "migrations", "plans", "partitions")),
)


@pytest.mark.timeout(300)
@pytest.mark.skipif(not BINARIES.is_dir(), reason="Debian's PostgreSQL 15 is not installed (apt-get install postgresql-15)")
@pytest.mark.skipif(VARIABLE in os.environ, reason=f"{VARIABLE} names the server of the whole run")
async def test_the_oldest_supported_server_passes_what_the_newest_does() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not sqlite", *CHOSEN),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {VARIABLE: str(BINARIES)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()

    assert process.returncode == 0, said.decode()
    assert b" passed" in said
    assert migrations.MINIMUM // 10_000 == 15

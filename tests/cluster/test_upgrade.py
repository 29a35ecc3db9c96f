"""Two versions of the program on one database, as while gateways are updated one after the other."""

from pathlib import Path

import pytest

from proxy.store.postgres.migrations import scripts
from tests.support.cluster import cluster
from tests.support.cluster_calls import calling
from tests.support.promises import Faults

EXPANDS = """
ALTER TABLE requests ADD COLUMN region text;
CREATE TABLE regions (name text PRIMARY KEY);
CREATE INDEX requests_by_region ON requests (region) WHERE region IS NOT NULL;
"""
CONTRACTS = f"-- compatible from {len(scripts()) + 1}\nALTER TABLE requests ADD COLUMN region text;\n"


def newer(directory: Path, script: str) -> dict[str, str]:
    """Return what makes a gateway one of the next version, which has one migration more."""
    file = directory / "newer.sql"
    file.write_text(script)
    return {"NEWER_SCHEMA": str(file)}


@pytest.mark.timeout(120)
async def test_gateways_are_updated_one_after_the_other_under_load(tmp_path: Path, faults: Faults) -> None:
    async with cluster(tmp_path, 2) as gateways:
        variables = newer(tmp_path, EXPANDS)
        first, second = gateways.members
        async with calling(gateways, faults) as customers:
            await customers.more(20)
            (third,) = await gateways.start(variables=variables)  # it changes the schema under the other two
            await customers.more(40)
            await first.kill()
            await first.start()  # of the old version, and still welcome
            await customers.more(20)
            for member in (first, second):
                await member.kill()
                member.variables |= variables
                await member.start()
            await customers.more(20)

        assert set(customers.told) & {500, 503} == set()
        versions = await gateways.row("SELECT version, compatible_from FROM llm_proxy_schema")
        assert tuple(versions) == (len(scripts()) + 1, 1)
        assert (await third.chat()).status == 200


async def test_an_old_version_does_not_start_on_a_schema_that_it_cannot_live_with(tmp_path: Path) -> None:
    async with cluster(tmp_path, 0) as gateways:
        (new,) = await gateways.start(variables=newer(tmp_path, CONTRACTS))
        refused = await new.run("ledger", "verify")
        new.variables.clear()
        old = await new.run("ledger", "verify")

        assert refused.returncode == 0, refused.stderr
        assert old.returncode != 0
        assert "update the program" in old.stderr
        assert (await new.chat()).status == 200

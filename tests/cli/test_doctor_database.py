"""`doctor` on PostgreSQL: what commonly breaks a database that gateways share. Each fault is set on a real server, and looked at."""

import asyncio
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from proxy.clock import SystemClock
from proxy.core.money import Nanos
from proxy.doctor.database import judge
from proxy.doctor.examination import examine
from proxy.doctor.finding import Finding
from proxy.store import inspect
from proxy.store.errors import StoreRefusedError
from proxy.store.peers import Introduction, NodeState
from proxy.store.postgres import migrations, open_store
from proxy.store.postgres.connection import Connection, Connector
from proxy.store.postgres.inspection import privileges
from proxy.store.server_facts import ClockOffset, ServerFacts
from tests.cli.test_doctor import ENV, of, write_config
from tests.cluster.test_nodes import node_of
from tests.support import postgres
from tests.support.books import assert_books_balance
from tests.support.cluster import Member, cluster
from tests.support.postgres_way import way_to
from tests.support.store import NOW_MS, new_request, settlement

PASSWORD = "canary-of-a-password"
OWNER, GUEST = "llm_proxy_owner", "llm_proxy_guest"
_numbers = count(1)


@cache
def server() -> postgres.Server:
    """Return a server that waits for its disk, as an operator's does; the one that tests share does not."""
    return postgres.start("--durable")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await Connector(url).connect(statement_seconds=None)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def admin() -> AsyncIterator[Connection]:
    """The superuser's connection."""
    async with connected(server().url) as connection:
        yield connection


@pytest.fixture
async def empty(admin: Connection) -> AsyncIterator[str]:
    """An empty database, which belongs to a role that is no superuser."""
    name = f"doctor_{next(_numbers)}"
    for role in (OWNER, GUEST):
        await admin.execute(f"CREATE ROLE {role} LOGIN")
    await admin.execute(f"CREATE DATABASE {name} OWNER {OWNER}")
    yield server().database(name).replace("postgres@", f"{OWNER}@")
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    for role in (OWNER, GUEST):
        await admin.execute(f"DROP ROLE {role}")


@pytest.fixture
async def url(empty: str) -> str:
    """The same with the schema."""
    await (await open_store(empty)).close()
    return empty


async def found(directory: Path, url: str) -> list[Finding]:
    """Return what the command finds with a configuration that names a database and a password."""
    path = write_config(directory, "http://127.0.0.1:9/api/v3")
    path.write_text(path.read_text().replace('url = "sqlite:gateway.db"', f'url = "{url}"\npassword = "env:STORE_PASSWORD"'))
    findings = await examine(path, ENV | {"STORE_PASSWORD": PASSWORD}, SystemClock())
    assert PASSWORD not in repr(findings)
    return findings


async def facts_of(url: str) -> ServerFacts:
    return await inspect(url, PASSWORD, SystemClock().now_ms)


async def test_a_sound_database_passes_and_is_not_changed(tmp_path: Path, url: str) -> None:
    findings = await found(tmp_path, url)

    elsewhere = ("upstream ark", "address", "descriptors", "accept queue", "database latency")
    assert {finding.state for finding in findings if finding.check not in elsewhere} == {"ok"}, findings
    assert of(findings, "database").says.startswith("PostgreSQL ")
    assert of(findings, "durability").says == "fsync = on, synchronous_commit = on"
    assert of(findings, "schema").says == f"version {len(migrations.scripts())}"
    assert of(findings, "privileges").says == f"{OWNER} reads, writes, and brings the schema up to date"
    assert of(findings, "store").says == "0 accounts; whether the books hold: llm-proxy ledger verify"
    async with connected(url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM nodes") == 1  # that of the opening which made the schema


async def test_an_empty_database_is_told_and_stays_empty(tmp_path: Path, empty: str) -> None:
    findings = await found(tmp_path, empty)

    assert of(findings, "schema").says == "the database is empty; the first start makes it"
    assert "failed" not in {finding.state for finding in findings if finding.check != "upstream ark"}
    async with connected(empty) as connection:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


async def test_a_server_that_is_not_there_is_told_without_the_password(tmp_path: Path) -> None:
    finding = of(await found(tmp_path, f"postgresql://gateway@/books?host={tmp_path}"), "database")

    assert (finding.state, "cannot open postgresql://gateway@/books" in finding.says) == ("failed", True)


async def test_the_database_of_another_program_is_told(tmp_path: Path, empty: str) -> None:
    async with connected(empty) as connection:
        await connection.execute("CREATE TABLE orders (id int)")

    finding = of(await found(tmp_path, empty), "database")

    assert (finding.state, "it has a table orders" in finding.says) == ("failed", True)


@pytest.mark.parametrize(
    ("value", "state", "says"),
    [
        ("off", "failed", "an acknowledged payment can be lost"),
        ("local", "failed", "on one disk only"),
        ("remote_write", "failed", "can be lost when server and standby fall together"),
        ("remote_apply", "ok", "synchronous_commit = remote_apply"),
    ],
)
async def test_commits_that_do_not_wait_for_a_disk_are_told(
    tmp_path: Path, admin: Connection, url: str, value: str, state: str, says: str
) -> None:
    await admin.execute(f"ALTER ROLE {OWNER} SET synchronous_commit = {value}")

    finding = of(await found(tmp_path, url), "durability")

    assert (finding.state, says in finding.says) == (state, True), finding


async def test_a_server_that_does_not_sync_is_told(tmp_path: Path) -> None:
    async with postgres.database() as url:
        finding = of(await found(tmp_path, url), "durability")

    assert (finding.state, finding.says) == ("failed", "fsync and full_page_writes = off: a fall of the machine can damage the books")


async def test_a_standby_that_is_not_waited_for_is_told(tmp_path: Path, admin: Connection, url: str) -> None:
    """What a failover to it would lose was acknowledged (860 of 6,446 holds, measured)."""
    binaries = postgres.binaries()
    assert binaries is not None
    with tempfile.TemporaryDirectory() as folder:
        receiving: list[str | Path] = [binaries / "pg_receivewal", "-D", folder, "-d", server().url, "--no-loop"]
        follower = await asyncio.create_subprocess_exec(*receiving, stderr=subprocess.DEVNULL)
        try:
            async with asyncio.timeout(30):
                while not await admin.fetchval("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"):
                    await admin.execute("SELECT pg_sleep(0.02)")
            alone = of(await found(tmp_path, url), "standby")
            named = [*judge(replace(await facts_of(url), settings=(await settings_with(url, "ANY 1 (*)"))), "")]
        finally:
            follower.terminate()
            await follower.wait()

    assert (alone.state, "1 standby is connected and synchronous_standby_names is empty" in alone.says) == ("failed", True), alone
    assert of(named, "standby").says == "1 connected, synchronous_standby_names = 'ANY 1 (*)'"
    assert of(await found(tmp_path, url), "standby").says == "none is connected"


async def settings_with(url: str, names: str) -> dict[str, str]:
    return {**(await facts_of(url)).settings, "synchronous_standby_names": names}


@pytest.mark.parametrize("is_pooler", [False, True])
async def test_a_pooler_is_told(tmp_path: Path, url: str, is_pooler: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with way_to(url, Path(folder)) as way:
            way.is_pooler = is_pooler
            findings = await found(tmp_path, way.url)

    assert any(finding.check == "pooler" for finding in findings) == is_pooler
    assert of(findings, "database").state == "ok"


async def set_clock(url: str, seconds: float) -> None:
    """Let the database's clock be wrong for whoever connects from now on."""
    async with connected(url) as connection:
        await connection.execute(
            f"""CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
                $$ SELECT pg_catalog.clock_timestamp() + make_interval(secs => {seconds}) $$;
                ALTER ROLE {OWNER} SET search_path = public, pg_catalog"""
        )


@pytest.mark.parametrize(
    ("seconds", "state", "says"),
    [
        (0.9, "warning", "the database's is 0.9 s ahead of this machine's"),
        (-30.0, "failed", "the database's is 30.0 s behind this machine's: a gateway does not start here"),
    ],
)
async def test_a_clock_that_differs_is_told(tmp_path: Path, url: str, seconds: float, state: str, says: str) -> None:
    """On a machine that stands still for a third of a second the first of these is not sure enough, and fails."""
    await set_clock(url, seconds)

    finding = of(await found(tmp_path, url), "database clock")

    assert (finding.state, finding.says[: len(says)]) == (state, says)


async def test_a_gateway_does_not_start_by_another_clock_and_a_command_does(url: str) -> None:
    await set_clock(url, 7)

    with pytest.raises(StoreRefusedError, match=r"is 7\.\d s ahead of this machine's: due times .* synchronise both"):
        await open_store(url, serves=True)
    await (await open_store(url)).close()


async def test_a_missing_privilege_is_told_by_its_name(tmp_path: Path, url: str) -> None:
    async with connected(url) as connection:
        for table, needed in privileges().items():
            await connection.execute(f"GRANT {', '.join(needed)} ON {table} TO {GUEST}")
        await connection.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM public")
        await connection.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {GUEST}")
        await connection.execute(f"REVOKE EXECUTE ON FUNCTION enter_node FROM {GUEST}")
        await connection.execute(f"REVOKE UPDATE ON accounts FROM {GUEST}")
        lacking = of(await found(tmp_path, url.replace(OWNER, GUEST)), "privileges")
        await connection.execute(f"GRANT UPDATE ON accounts TO {GUEST}")
        await connection.execute(f"GRANT EXECUTE ON FUNCTION enter_node TO {GUEST}")
        enough = of(await found(tmp_path, url.replace(OWNER, GUEST)), "privileges")

    assert (lacking.state, lacking.says) == ("failed", f"{GUEST} has not: UPDATE on accounts, EXECUTE on enter_node")
    assert (enough.state, "may not change the schema" in enough.says) == ("warning", True)


async def test_the_privileges_that_are_asked_for_are_enough(url: str) -> None:
    async with connected(url) as connection:
        for table, needed in privileges().items():
            await connection.execute(f"GRANT {', '.join(needed)} ON {table} TO {GUEST}")
    store = await open_store(url.replace(OWNER, GUEST), serves=True)

    account = await store.create_account("acme", Nanos(1000), NOW_MS)
    await store.place_hold(new_request(account_id=account.id))
    await store.settle("req_1", settlement(70), NOW_MS)
    await store.forget_claims(NOW_MS)

    assert (await store.account("acme")).balance_nanos == 930
    await assert_books_balance(store)
    await store.close()


async def test_a_superuser_is_told(tmp_path: Path, url: str) -> None:
    finding = of(await found(tmp_path, url.replace(OWNER, "postgres")), "privileges")

    assert (finding.state, finding.says.startswith("postgres is a superuser")) == ("warning", True)


async def test_gateways_that_differ_or_stand_still_are_told(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as gateways:
        await gateways.start(server="heartbeat_seconds = 7")
        await gateways.until("SELECT count(*) = 2 FROM nodes WHERE serving AND settings <> ''")
        first, second = gateways.members
        alike = await look_as(first)
        node = await node_of(gateways, second)
        await first.end_by(signal.SIGTERM)
        second.stop()
        await gateways.until("SELECT clock_timestamp() - beat_at > interval '6 s' FROM nodes WHERE id = $1", node)
        still = await look_as(second)
        other = await look_as(first)
        second.go_on()

    assert (of(alike, "configurations").state, "gateways differ (" in of(alike, "configurations").says) == ("warning", True)
    assert of(alike, "gateway").says == f"runs (pid {first.pid}) and answers the operator"
    assert f"{node} (" in of(still, "gateways").says
    assert "its beat stands still for" in of(still, "gateways").says
    assert of(still, "configurations").says == "all gateways have this one"
    assert "this file is" in of(other, "configurations").says


async def look_as(member: Member) -> list[Finding]:
    return await examine(member.config, ENV, SystemClock())


JUDGED: dict[str, tuple[dict[str, object], str, str, str]] = {
    # facts that are different, the check, its state, its words
    "an old server": ({"version": "14.11", "is_supported": False}, "database", "failed", "PostgreSQL 14.11"),
    "a standby": ({"is_standby": True}, "database", "failed", "a standby, which takes no writes"),
    "far away": ({"round_trip_seconds": 0.03}, "database latency", "warning", "an answer takes 30.0 ms"),
    "full": ({"connections": 195}, "connections", "warning", "195 of 200 are open"),
    "full behind a pooler": ({"connections": 195, "is_pooled": True}, "connections", "ok", "195 of 200"),
    "a clock that may agree": ({"clock": ClockOffset(2.5, 2.2)}, "database clock", "ok", "agrees"),
    "an older schema": ({"schema_version": -1}, "schema", "warning", "the next start brings it to"),
    "a newer schema": ({"schema_version": 1}, "schema", "warning", "made by a newer program"),
    "a name that nobody answers to": ({"standby_names": "replica"}, "standby", "warning", "'replica' waits for one"),
    "an owner is needed": ({"may_migrate": False}, "privileges", "warning", "may not change the schema"),
}


@pytest.mark.parametrize(("changed", "check", "state", "says"), JUDGED.values(), ids=JUDGED.keys())
async def test_facts_are_judged(url: str, changed: dict[str, object], check: str, state: str, says: str) -> None:
    facts = replace(await facts_of(url), settings=await settings_with(url, str(changed.pop("standby_names", ""))))
    further = int(str(changed.pop("schema_version", 0)))
    facts = replace(facts, schema=replace(facts.schema, version=facts.schema.version + further), **changed)  # type: ignore[arg-type]

    finding = of([*judge(facts, "")], check)

    assert (finding.state, says in finding.says) == (state, True), finding


async def test_a_gateway_whose_beat_moves_is_only_counted(url: str) -> None:
    node = NodeState(3, "host 17", "0.1.0", True, Introduction("http://10.0.0.7", "d1"), 0, 1.2, 0)

    findings = [*judge(replace(await facts_of(url), nodes=(node, replace(node, id=4, serves=False, silent_seconds=90.0))), "d1")]

    assert [finding.says for finding in findings if finding.check == "gateways"] == ["1 lives: llm-proxy nodes"]
    assert of(findings, "configurations").state == "ok"

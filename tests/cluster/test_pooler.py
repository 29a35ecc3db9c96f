"""Gateways behind PgBouncer in transaction mode, which hands each transaction to whichever connection is free."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.demo.bound import end_with_parent
from tests.support.cluster import cluster
from tests.support.cluster_calls import calling
from tests.support.promises import Faults
from tests.support.replicas import USER

CONFIG = """
[databases]
* = host={server}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = 5432
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 4
logfile = {folder}/log
"""


@asynccontextmanager
async def pgbouncer(url: str) -> AsyncIterator[str]:
    """Lend the URL of a pooler with four connections to the server of a URL."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    parts = urlsplit(url)
    if "host" not in parse_qs(parts.query):
        pytest.skip("the server is not ours: its pooler would need a password")
    with tempfile.TemporaryDirectory(prefix="llm-proxy-pool-") as made:
        process = _start(program, Path(made), parse_qs(parts.query)["host"][0])
        try:
            async with asyncio.timeout(20):
                while not (Path(made) / ".s.PGSQL.5432").exists():
                    assert process.poll() is None
                    await asyncio.sleep(0.02)
            yield f"postgresql://{parts.netloc}{parts.path}?host={made}"
        finally:
            process.kill()  # it keeps nothing; SIGQUIT it ignores where the tests run in the background, SIGTERM has two meanings
            await asyncio.to_thread(process.wait)


def _start(program: str, folder: Path, server: str) -> "subprocess.Popen[bytes]":
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(CONFIG.format(server=server, folder=folder))
    folder.chmod(0o755)
    if USER is not None:
        os.chown(folder, USER, pwd.getpwuid(USER).pw_gid)
    return subprocess.Popen(
        [program, "-q", folder / "pgbouncer.ini"],
        user=USER,
        cwd=folder,
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(end_with_parent, signal.SIGKILL),  # noqa: PLW1509  it calls the kernel, and nothing else
    )


@pytest.mark.timeout(120)
async def test_gateways_share_four_connections_of_a_pooler(tmp_path: Path, faults: Faults) -> None:
    async with cluster(tmp_path, 0) as gateways, pgbouncer(gateways.url) as pooled:
        members = await gateways.start(2, url=pooled)
        async with calling(gateways, faults) as customers:
            await customers.more(100)
        assert set(customers.told) == {200}

        made = await members[0].command_answer("key", "create", "acme")
        created = [(await member.chat(key=made["key"])).status for member in members]
        await members[0].command_answer("key", "revoke", made["id"])
        revoked = [(await member.ask("/models", key=made["key"])).status for member in members]
        assert (created, revoked) == ([200, 200], [401, 401])

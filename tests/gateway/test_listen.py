"""Addresses that the gateway listens on: every one of IPv6 and IPv4, and two that share a port."""

from pathlib import Path

import aiohttp
import pytest

from tests.support.gateway import bench
from tests.support.process import free_port

pytestmark = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")


async def health(port: int, *hosts: str) -> list[int]:
    async with aiohttp.ClientSession() as session:
        answers = []
        for host in hosts:
            async with session.get(f"http://{host}:{port}/healthz") as response:
                answers.append(response.status)
        return answers


async def test_every_address_means_ipv4_as_well_as_ipv6(tmp_path: Path) -> None:
    port = free_port()

    async with bench(tmp_path, listen=f"[::]:{port}"):
        assert await health(port, "[::1]", "127.0.0.1") == [200, 200]


@pytest.mark.parametrize("listen", ['[::]:{port}", "0.0.0.0:{port}', '127.0.0.1:{port}", "[::]:{port}'])
async def test_a_file_that_names_both_goes_on_to_work(tmp_path: Path, listen: str) -> None:
    port = free_port()

    async with bench(tmp_path, listen=listen.format(port=port)):
        assert await health(port, "[::1]", "127.0.0.1") == [200, 200]


async def test_metrics_may_have_the_same_port_on_an_ipv4_address(tmp_path: Path) -> None:
    port = free_port()

    async with (
        bench(tmp_path, listen=f"[::]:{port}", admin=f'metrics_listen = "127.0.0.1:{port}"'),
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as metrics,
        session.get(f"http://[::1]:{port}/healthz") as alive,
    ):
        assert (metrics.status, alive.status) == (200, 200)

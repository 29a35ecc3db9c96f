"""The gateway as a service of the machine: installed as in `systemd/README.md`, with a stand-in for Ark as its upstream."""

import asyncio

import orjson

from tests.systemd.machine import SOURCE, Machine
from tests.systemd.readme import commands

PORT, UPSTREAM_PORT = 8080, 9000
CHUNKS, CHUNK_MS = 20, 50
"""A stream takes a second: some are in flight at every restart, and none outlasts the drain."""
CONFIG = "/etc/llm-proxy/config.toml"
WAIT_SECONDS = 90.0


class Service:
    """``llm-proxy.service`` of a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    async def install(self) -> str:
        """Run the commands of `systemd/README.md`, and return a customer's key. The stand-in replaces Ark before the first request."""
        await self.machine.run(commands()["Install"])
        await self.machine.run(
            f"systemd-run --quiet --unit=ark /opt/llm-proxy-0.1.0/bin/python -m proxy.demo.ark --port {UPSTREAM_PORT} "
            f"--chunks {CHUNKS} --chunk-ms {CHUNK_MS} --first-byte-ms 20"
        )
        await self.machine.run(f"sed -i 's|^base_url = .*|base_url = \"http://127.0.0.1:{UPSTREAM_PORT}/api/v3\"|' {CONFIG}")
        await self.machine.run("systemctl restart llm-proxy && llm-proxy account create acme --credit 100000")
        made = await self.machine.run("llm-proxy key create acme --json")
        return str(orjson.loads(made.text)["key"])

    async def show(self, name: str, unit: str = "llm-proxy.service") -> str:
        """Return a property of the unit, from systemctl."""
        return (await self.machine.run(f"systemctl show -P {name} {unit}")).text

    async def kill(self, signal: str) -> None:
        """Send a signal to the main process."""
        await self.machine.run(f"kill -{signal} $(systemctl show -P MainPID llm-proxy)")

    async def until_restarts(self, count: int) -> None:
        """Return once the service runs and systemd has restarted it at least ``count`` times."""
        async with asyncio.timeout(WAIT_SECONDS):
            while int(await self.show("NRestarts")) < count or await self.show("ActiveState") != "active":  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # systemctl waits for jobs, not for restarts

    async def journal(self, unit: str, since: str = "") -> str:
        """Return the journal of a unit, with systemd's messages about it, after a cursor from `cursor`."""
        after = f"--after-cursor='{since}'" if since else ""
        return (await self.machine.run(f"journalctl --sync; journalctl --no-pager -o cat -u {unit} {after}")).text

    async def cursor(self) -> str:
        """Return the cursor of the journal's present end."""
        text = (await self.machine.run("journalctl --sync; journalctl -n 1 -o cat --show-cursor --no-pager")).text
        return text.rsplit("-- cursor: ", 1)[1].strip()

    async def probe(self, unit: str, kind: str) -> str:
        """Run the probe in the sandbox of a unit, by a copy of it with another command; return its output."""
        copy = f"/etc/systemd/system/{unit}-probe.service"
        drop_in = (
            "[Unit]\\nWants=\\n[Service]\\nType=oneshot\\nRestart=no\\nWatchdogSec=0\\nExecStopPost=\\nExecReload=\\nExecStart=\\n"
            f"ExecStart=/usr/bin/python3 {SOURCE}/tests/systemd/probe.py /var/lib/llm-proxy {kind}\\n"
        )
        await self.machine.run(
            f"cp /etc/systemd/system/{unit}.service {copy}; mkdir -p {copy}.d; printf '{drop_in}' > {copy}.d/probe.conf"
        )
        await self.machine.run(f"systemctl daemon-reload; systemctl start {unit}-probe")
        return await self.journal(f"{unit}-probe")

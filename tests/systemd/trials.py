"""The trials of the service, one function each; a fault is an AssertionError, the result a line of figures."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.systemd.crowd import Crowd
from tests.systemd.customers import Seen
from tests.systemd.machine import SOURCE
from tests.systemd.readme import commands
from tests.systemd.service import CONFIG, Service

RESTARTS, RELOADS, KILLS = 20, 20, 3
STEADY_SECONDS = 3.0
WATCHDOG_SECONDS = 30.0
UNITS = {"llm-proxy": "gateway", "llm-proxy-verify": "job", "llm-proxy-backup": "job"}
MEANT = {"llm-proxy": frozenset[str](), "llm-proxy-verify": frozenset[str](), "llm-proxy-backup": frozenset[str]()}
"""Attempts of the probe that each unit may make: none."""


async def restarts(service: Service, crowd: Crowd) -> str:
    """Restart under load: no connection is refused, no answer is incomplete."""
    seen = await under_load(crowd, RESTARTS, lambda _: service.machine.run("systemctl restart llm-proxy"))
    assert_nobody_was_hurt(seen)
    return f"{RESTARTS} restarts under load: {told(seen)}"


async def reloads(service: Service, crowd: Crowd) -> str:
    """Reload under load, with another price each time; then with a bad file, which fails the reload and changes nothing."""

    async def reload(turn: int) -> None:
        await service.machine.run(
            f'sed -i \'0,/input = "0.8[0-9]*"/s//input = "0.8{turn % 9 + 1}"/\' {CONFIG} && systemctl reload llm-proxy'
        )

    pid = await service.show("MainPID")
    seen = await under_load(crowd, RELOADS, reload)
    assert_nobody_was_hurt(seen)
    await service.machine.run(f"cp {CONFIG} {CONFIG}.good; echo 'typo = 1' >> {CONFIG}")
    refused = await service.machine.run("systemctl reload llm-proxy", check=False)
    await service.machine.run(f"cp {CONFIG}.good {CONFIG}; systemctl reload llm-proxy")
    assert refused.code != 0, "a bad file was taken"
    assert await service.show("MainPID") == pid
    assert_nobody_was_hurt(await crowd.seen())
    return f"{RELOADS} reloads under load, and one of a bad file, refused: {told(seen)}"


async def kills(service: Service, crowd: Crowd) -> str:
    """kill -9 under load: requests in flight break, no connection is refused."""
    before = int(await service.show("NRestarts"))

    async def kill(turn: int) -> None:
        await service.kill("KILL")
        await service.until_restarts(before + turn + 1)

    seen = await under_load(crowd, KILLS, kill)
    assert not seen.refused, seen
    assert not seen.statuses, seen
    in_flight = seen.broken_json + seen.broken_streams + seen.unanswered
    return f"{KILLS} × kill -9 under load: {told(seen)}; broken off in flight {in_flight}"


async def hang(service: Service, crowd: Crowd) -> str:
    """A process that hangs is ended by the watchdog, and logs where it hung."""
    before, cursor = int(await service.show("NRestarts")), await service.cursor()
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    await service.kill("STOP")
    await service.until_restarts(before + 1)
    seconds = loop.time() - began_at
    journal = await service.journal("llm-proxy", cursor)
    assert "Watchdog timeout" in journal
    assert "most recent call first" in journal
    seen = await crowd.seen()
    assert not seen.refused, seen
    return f"a hang (SIGSTOP) under load: serving again after {seconds:.0f} s (watchdog {WATCHDOG_SECONDS:.0f}); {told(seen)}"


async def bad_configuration(service: Service, crowd: Crowd) -> str:
    """A wrong configuration is tried once, while customers connect; once it is corrected, the service works as before."""
    before, cursor = await service.show("NRestarts"), await service.cursor()
    await service.machine.run(f"cp {CONFIG} {CONFIG}.good; echo 'typo = 1' >> {CONFIG}")
    await service.machine.run("systemctl restart llm-proxy", check=False)
    await asyncio.sleep(STEADY_SECONDS)
    status = await service.show("ExecMainStatus")
    states = await service.show("ActiveState"), await service.show("ActiveState", "llm-proxy.socket")
    starts = (await service.journal("llm-proxy", cursor)).count("Starting llm-proxy.service")
    await service.machine.run(f"cp {CONFIG}.good {CONFIG}; systemctl start llm-proxy")
    await crowd.seen()
    await asyncio.sleep(STEADY_SECONDS)
    assert_nobody_was_hurt(await crowd.seen())
    assert (status, starts, states) == ("78", 1, ("failed", "inactive")), (status, starts, states)
    assert await service.show("NRestarts") in (before, "0")
    return "a bad configuration: exit status 78, started once, the socket closed until it was mended"


async def upgrade_and_back(service: Service, crowd: Crowd) -> str:
    """Upgrade and roll back as `systemd/README.md` says, under load."""
    for name in ("Upgrade", "Roll back"):
        await service.machine.run(commands()[name])
        assert await service.show("ActiveState") == "active"
    await asyncio.sleep(STEADY_SECONDS)
    seen = await crowd.seen()
    assert_nobody_was_hurt(seen)
    return f"an upgrade and a roll back under load: {told(seen)}"


async def jobs(service: Service) -> str:
    """Verification and backups by their units; then the restore of `systemd/README.md`, after which the service works."""
    await service.machine.run("systemctl start llm-proxy-verify")
    for _ in range(2):
        await service.machine.run(commands()["Back up"])
        await asyncio.sleep(1.1)  # names have a resolution of one second
    await service.machine.run(commands()["Restore"])
    await service.machine.run("llm-proxy ledger verify && systemctl start llm-proxy-verify llm-proxy-backup")
    timers = (await service.machine.run("systemctl list-timers --no-pager --no-legend 'llm-proxy-*'")).text
    assert len(timers.splitlines()) == 2, timers
    count = (await service.machine.run("ls /var/lib/llm-proxy/backups | wc -l")).text
    failed = (await service.machine.run("systemctl --failed --no-legend")).text
    assert not failed, failed
    return f"verify, {count} backups and a restore by the units: all books hold"


async def sandbox(service: Service) -> str:
    """Everything that the probe tries is denied in each unit's sandbox, and allowed to root without one."""
    await service.machine.run("mkdir -p /tmp/of-another /home/someone && touch /tmp/of-another/file ~root/file && chmod 755 ~root")
    for unit, kind in UNITS.items():
        text = await service.probe(unit, kind)
        allowed = {line.removeprefix("allowed ") for line in text.splitlines() if line.startswith("allowed ")}
        assert allowed == MEANT[unit], (unit, allowed)
        assert text.count("denied ") > 25, text
    free = (await service.machine.run(f"python3 {SOURCE}/tests/systemd/probe.py /var/lib/llm-proxy job")).text
    assert "denied" not in free, free
    key = await service.machine.run(
        "setpriv --reuid=65534 --clear-groups cat /run/credentials/llm-proxy.service/ark-api-key", check=False
    )
    assert "Permission denied" in key.text, key
    return f"sandbox: {len(free.splitlines())} attempts, all denied in each of {len(UNITS)} units, all allowed to root outside"


async def under_load(crowd: Crowd, times: int, act: Callable[[int], Awaitable[object]]) -> Seen:
    await asyncio.sleep(STEADY_SECONDS)
    await crowd.seen()
    for turn in range(times):
        await act(turn)
        await asyncio.sleep(0.5)
    await asyncio.sleep(STEADY_SECONDS)
    return await crowd.seen()


def assert_nobody_was_hurt(seen: Seen) -> None:
    hurt = seen.refused + seen.broken_json + seen.broken_streams + seen.unanswered + len(seen.statuses)
    assert not hurt, seen
    assert seen.answers > 0, seen
    assert seen.streams > 0, seen


def told(seen: Seen) -> str:
    return (
        f"{seen.answers} JSON answers, {seen.streams} streams, {seen.refused} refused, {seen.broken_streams} streams broken, "
        f"longest wait {seen.longest_wait_seconds:.1f} s"
    )

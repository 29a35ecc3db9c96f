"""`llm-proxy` with a short lease, for tests that wait for deaths: `python -m tests.support.quick_lease LEASE_SECONDS WORDS…`.

``NEWER_SCHEMA`` names a file with one more migration, as a newer version of the program has it.
"""

import os
import sys
from pathlib import Path

from proxy.store.postgres import lease, migrations


def main() -> None:
    lease.LEASE_SECONDS = float(sys.argv.pop(1))
    lease.BEAT_SECONDS = lease.LEASE_SECONDS / 10
    if newer := os.environ.get("NEWER_SCHEMA"):
        known = migrations.scripts
        migrations.scripts = lambda: [*known(), Path(newer).read_text()]
    from proxy import cli  # noqa: PLC0415  the lease comes first

    cli.main()


if __name__ == "__main__":
    main()

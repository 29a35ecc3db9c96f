"""`llm-proxy` with a short lease, for tests that wait for deaths: `python -m tests.support.quick_lease LEASE_SECONDS WORDS…`."""

import sys

from proxy.store.postgres import lease


def main() -> None:
    lease.LEASE_SECONDS = float(sys.argv.pop(1))
    lease.BEAT_SECONDS = lease.LEASE_SECONDS / 10
    from proxy import cli  # noqa: PLC0415  the lease comes first

    cli.main()


if __name__ == "__main__":
    main()

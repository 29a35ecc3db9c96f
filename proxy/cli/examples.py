"""The examples at the end of each command's help. A test parses each of them as the command line does."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": (
        "llm-proxy demo",
        "llm-proxy check-config",
        "llm-proxy account create acme --credit 100.00",
        "llm-proxy key create acme",
        "llm-proxy serve",
    ),
    "serve": ("llm-proxy serve", "llm-proxy serve --config /etc/llm-proxy/config.toml", "llm-proxy serve --workers 4"),
    "demo": ("llm-proxy demo", "llm-proxy demo --once", "llm-proxy demo --nodes 3 --once"),
    "check-config": ("llm-proxy check-config", "llm-proxy check-config --diff", "llm-proxy check-config --config new.toml --json"),
    "reload": ("llm-proxy reload",),
    "doctor": ("llm-proxy doctor", "llm-proxy doctor --url https://llm.example.com/api/v1"),
    "nodes": ("llm-proxy nodes", "llm-proxy nodes --json"),
    "nodes drain": ("llm-proxy nodes drain 3",),
    "account create": ("llm-proxy account create acme --credit 100.00",),
    "account list": ("llm-proxy account list", "llm-proxy account list --json"),
    "account show": ("llm-proxy account show acme",),
    "account credit": (
        "llm-proxy account credit acme 50.00 --note 'invoice 4711'",
        "llm-proxy account credit acme 50.00 --reference order-8812",
        "llm-proxy account credit acme -5.00",
        "llm-proxy account credit --request req_019a2f4c6b1e0123456789abcdef",
        "llm-proxy account credit --request req_019a2f4c6b1e0123456789abcdef 0.50 --note 'half an answer'",
    ),
    "account close": ("llm-proxy account close acme",),
    "account set": (
        "llm-proxy account set acme --spend 500/month",
        "llm-proxy account set acme --rpm 600 --concurrent none",
        "llm-proxy account set acme --discount 0.85",
    ),
    "account suspend": ("llm-proxy account suspend acme",),
    "account resume": ("llm-proxy account resume acme",),
    "key create": (
        "llm-proxy key create acme --name production",
        "llm-proxy key create acme --expires 90d --spend 5/day,50/month --models 'doubao-seed-*'",
        "llm-proxy key create acme --networks 10.0.0.0/8 --rpm 60 --tpm 100000 --concurrent 4",
    ),
    "key list": ("llm-proxy key list acme", "llm-proxy key list --json"),
    "key find": ("llm-proxy key find sk_aB3dE6g",),
    "key set": (
        "llm-proxy key set key_abcDEF123456 --spend 50.00 --per day",
        "llm-proxy key set key_abcDEF123456 --expires 2027-01-31 --rpm none",
    ),
    "key pause": ("llm-proxy key pause key_abcDEF123456",),
    "key resume": ("llm-proxy key resume key_abcDEF123456",),
    "key roll": ("llm-proxy key roll key_abcDEF123456 --overlap 24h",),
    "key revoke": ("llm-proxy key revoke key_abcDEF123456",),
    "usage": (
        "llm-proxy usage --since 7d --by day",
        "llm-proxy usage --account acme --since 2026-11-01 --until 2026-12-01",
        "llm-proxy usage --by key --csv",
    ),
    "receipt": ("llm-proxy receipt req_019a2f4c6b1e0123456789abcdef",),
    "ledger verify": ("llm-proxy ledger verify", "llm-proxy ledger verify --json"),
    "backup": ("llm-proxy backup /var/backups/llm-proxy-2026-11-23.db",),
    "restore": ("llm-proxy restore /var/backups/llm-proxy-2026-11-23.db",),
    "store move": (
        "llm-proxy store move --from sqlite:/var/lib/llm-proxy/llm-proxy.db --to postgresql://llm-proxy@db.internal/llm-proxy",
        "llm-proxy store move --from postgresql://llm-proxy@db.internal/llm-proxy --to sqlite:copy.db --password file:pg-password",
        "llm-proxy store move --from sqlite:llm-proxy.db --to postgresql://llm-proxy@db.internal/llm-proxy --resume",
    ),
    "retention": ("llm-proxy retention --days 90 --dry-run", "llm-proxy retention"),
    "top": ("llm-proxy top", "llm-proxy top --once --json", "llm-proxy top --worker 2"),
}


def examples(command: str) -> str:
    """Return the last paragraph of a help text. The backspace before it keeps its line breaks."""
    shown = EXAMPLES.get(command, ())
    return "\b\n" + "\n".join(["Example:" if len(shown) == 1 else "Examples:", *(f"  {line}" for line in shown)]) if shown else ""

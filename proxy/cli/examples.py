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
    "serve": ("llm-proxy serve", "llm-proxy serve --config /etc/llm-proxy/config.toml"),
    "demo": ("llm-proxy demo", "llm-proxy demo --once"),
    "check-config": ("llm-proxy check-config", "llm-proxy check-config --diff", "llm-proxy check-config --config new.toml --json"),
    "reload": ("llm-proxy reload",),
    "doctor": ("llm-proxy doctor", "llm-proxy doctor --url https://llm.example.com/api/v1"),
    "account create": ("llm-proxy account create acme --credit 100.00",),
    "account list": ("llm-proxy account list", "llm-proxy account list --json"),
    "account show": ("llm-proxy account show acme",),
    "account credit": (
        "llm-proxy account credit acme 50.00 --note 'invoice 4711'",
        "llm-proxy account credit acme 50.00 --reference order-8812",
        "llm-proxy account credit acme -5.00",
    ),
    "key create": ("llm-proxy key create acme --name production",),
    "key list": ("llm-proxy key list acme",),
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
    "retention": ("llm-proxy retention --days 90 --dry-run", "llm-proxy retention"),
    "top": ("llm-proxy top", "llm-proxy top --once --json"),
}


def examples(command: str) -> str:
    """Return the last paragraph of a help text. The backspace before it keeps its line breaks."""
    shown = EXAMPLES.get(command, ())
    return "\b\n" + "\n".join(["Example:" if len(shown) == 1 else "Examples:", *(f"  {line}" for line in shown)]) if shown else ""

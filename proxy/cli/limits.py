"""The options that set limits, as every command that has them takes them."""

from typing import Annotated

import typer

ExpiresOption = Annotated[
    str | None, typer.Option("--expires", metavar="WHEN", help="90d, 2027-01-31 (its end, by billing.time_zone), a time, or never.")
]
ModelsOption = Annotated[
    str | None, typer.Option("--models", metavar="PATTERNS", help="Only these: 'doubao-seed-*,doubao-pro-32k'. none: all.")
]
NetworksOption = Annotated[
    str | None, typer.Option("--networks", metavar="CIDRS", help="Only from these: 10.0.0.0/8,2001:db8::/32. none: from all.")
]
RpmOption = Annotated[str | None, typer.Option("--rpm", metavar="N", help="Requests a minute. none: no limit.")]
TpmOption = Annotated[str | None, typer.Option("--tpm", metavar="N", help="Tokens a minute. none: no limit.")]
ConcurrentOption = Annotated[str | None, typer.Option("--concurrent", metavar="N", help="Requests at a time. none: no limit.")]
SpendOption = Annotated[
    str | None, typer.Option("--spend", metavar="YUAN", help="5/day, 5/day,50/month, 100/total. none, none/day: no limit.")
]
PerOption = Annotated[str | None, typer.Option("--per", metavar="PERIOD", help="day, month or total: the period of --spend 50.00.")]

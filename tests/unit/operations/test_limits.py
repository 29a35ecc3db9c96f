"""Limits as they are typed: what each form means, and that a wrong one is refused by its name and with what is right."""

import re
from typing import Any

import pytest

from proxy.core.days import CHINA
from proxy.core.limits import LimitsChange
from proxy.operations.limits import LimitedOperation
from proxy.operations.parameters import ParameterError
from proxy.operations.table import prepare
from tests.support.store import NOW_MS

DAY_MS = 86_400_000
YUAN = 10**9


def changed(**options: str) -> LimitsChange:
    operation = prepare("key.set", {"id": "key_1", **options})
    assert isinstance(operation, LimitedOperation)
    return operation.change(NOW_MS, CHINA)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"expires": "never"}, {"expires_at_ms": None}),
        ({"expires": "90d"}, {"expires_at_ms": NOW_MS + 90 * DAY_MS}),
        ({"expires": "2025-11-25"}, {"expires_at_ms": NOW_MS + DAY_MS}),  # its end; NOW is its first moment in China
        ({"expires": "2025-11-25T00:00:00.001"}, {"expires_at_ms": NOW_MS + 1}),
        ({"models": "doubao-seed-*, doubao-pro-32k"}, {"models": ("doubao-seed-*", "doubao-pro-32k")}),
        ({"models": ""}, {"models": ()}),
        ({"models": "none"}, {"models": ()}),
        ({"networks": "10.0.0.0/8,2001:DB8::/32,192.0.2.1"}, {"networks": ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32")}),
        ({"networks": "::ffff:10.0.0.0/104"}, {"networks": ("10.0.0.0/8",)}),
        ({"networks": "none"}, {"networks": ()}),
        (
            {"rpm": "60", "tpm": "100000", "concurrent": "none"},
            {"requests_per_minute": 60, "tokens_per_minute": 100_000, "concurrent": None},
        ),
        ({"spend": "50.00", "per": "day"}, {"day_nanos": 50 * YUAN}),
        ({"spend": "5/day, 50/month"}, {"day_nanos": 5 * YUAN, "month_nanos": 50 * YUAN}),
        ({"spend": "0.000000001/total,none/day"}, {"day_nanos": None, "total_nanos": 1}),
        ({"spend": "none"}, {"day_nanos": None, "month_nanos": None, "total_nanos": None}),
        ({"spend": "none", "per": "month"}, {"month_nanos": None}),
    ],
)
def test_what_is_typed_changes_what_it_names_and_nothing_else(options: dict[str, str], change: dict[str, Any]) -> None:
    assert changed(**options) == LimitsChange(**change)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "there is nothing to set: name a limit"),
        ({"expires": "soon"}, "expires: 'soon' is no date (2027-01-31), no time"),
        ({"expires": "999999w"}, "expires: '999999w' is more than a hundred years"),
        ({"expires": "9990-01-01"}, "expires: '9990-01-01' is out of range"),
        ({"models": "a,,b"}, "models: must be up to 100 names of models"),
        ({"models": "a b"}, "models: must be up to 100 names of models"),
        ({"models": ",".join("abcdefghij" * 11)}, "models: must be up to 100 names of models"),
        ({"networks": ""}, "networks: '' is no network such as 10.0.0.0/8"),
        ({"networks": "10.0.0.0/33"}, "networks: '10.0.0.0/33' is no network"),
        ({"networks": "10.0.0.1/8"}, "networks: 10.0.0.1/8 has host bits set: 10.0.0.0/8 would be the network around it"),
        ({"networks": "office"}, "networks: 'office' is no network"),
        ({"rpm": "0"}, "rpm: must be a whole number from 1 on, or none, not '0'"),
        ({"tpm": "-1"}, "tpm: must be a whole number"),
        ({"concurrent": "1.5"}, "concurrent: must be a whole number"),
        ({"rpm": "٣"}, "rpm: must be a whole number"),
        ({"spend": "5"}, "spend: an amount is for a period (day, month, total), such as 5/day"),
        ({"spend": "5/week"}, "spend: an amount is for a period (day, month, total), such as 5/day or 5/day,50/month, not '5/week'"),
        ({"spend": "5", "per": "hour"}, "spend: an amount is for a period"),
        ({"spend": "5/day", "per": "day"}, "spend: '5/day' names its period: leave --per out"),
        ({"spend": "5/day,6/day"}, "spend: there are two amounts a day"),
        ({"spend": "0/day"}, "spend: must be above 0, not 0: nothing could pass; to stop a key, pause it"),
        ({"spend": "-1/day"}, "spend: must be above 0"),
        ({"spend": "five/day"}, "spend: no decimal number of yuan: 'five'"),
        ({"spend": ""}, "spend: an amount is for a period"),
        ({"per": "day"}, "per: is the period of spend, which is missing"),
    ],
)
@pytest.mark.parametrize("operation", ["key.set", "account.set", "key.create"])
def test_a_wrong_form_is_refused_by_its_name(operation: str, options: dict[str, str], said: str) -> None:
    whose = {"id": "key_1"} if operation == "key.set" else {"account": "acme"}
    if operation == "key.create" and not options:
        prepare(operation, whose)
        return

    with pytest.raises(ParameterError, match=f"^{re.escape(said)}"):
        prepare(operation, {**whose, **options})


@pytest.mark.parametrize("expires", ["2025-11-24", "2025-11-24T23:59:59.999+08:00", "0d"])
def test_an_end_that_is_over_is_refused_by_the_clock(expires: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"expires: {expires!r} is over already: name a day or a time to come")):
        changed(expires=expires)

"""Money as integers of nano-yuan (1e-9 CNY), with decimals only at the edges.

A price of ¥0.001 per million tokens is exactly 1 nano-yuan a token, so a cost is a product and a sum, never a rounding.
"""

import re
from decimal import Decimal
from typing import NewType

Nanos = NewType("Nanos", int)

NANOS_PER_YUAN = 1_000_000_000
NANOS_MAX = 2**62
"""Largest amount accepted anywhere: far above any balance, and a sum of two still fits SQLite's signed 64 bits."""

DISCOUNT_WHOLE = 10_000
"""The discount of an account that pays the whole price: a factor in ten-thousandths."""

_PRICE_DECIMALS_MAX = 3
_PLAIN_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
"""`Decimal` also accepts "1e3", "NaN", "1_000", blanks and the digits of every script, none of which is meant as an amount."""


def parse_yuan(text: str) -> Nanos:
    """Return the nano-yuan of a decimal amount in yuan such as ``"100.00"`` or ``"-0.5"``; exact.

    Raises:
        ValueError: not a plain decimal number, finer than 1e-9, or beyond ``NANOS_MAX``.
    """
    return _scaled(text, decimals_max=9, unit="yuan")


def parse_price(text: str | int) -> Nanos:
    """Return nano-yuan per unit (an image) of a price in yuan with at most 3 decimals.

    Raises:
        ValueError: negative, not a plain decimal number, or more than 3 decimals.
    """
    nanos = _scaled(str(text), decimals_max=_PRICE_DECIMALS_MAX, unit="yuan")
    if nanos < 0:
        raise ValueError(f"a price cannot be negative: {text!r}")
    return nanos


def parse_token_price(text: str | int) -> Nanos:
    """Return nano-yuan per token of a price in yuan per million tokens; ``"0.001"`` is exactly 1.

    Raises:
        ValueError: as in ``parse_price``.
    """
    return Nanos(parse_price(text) // 1_000_000)


def parse_discount(text: str) -> int:
    """Return a factor such as ``"0.85"`` in ten-thousandths; ``"none"`` is the whole price.

    Raises:
        ValueError: no plain decimal number above 0 and up to 1, or more than 4 decimals.
    """
    if text == "none":
        return DISCOUNT_WHOLE
    factor = Decimal(text) * DISCOUNT_WHOLE if len(text) <= 40 and _PLAIN_DECIMAL.fullmatch(text) else Decimal(0)
    if not 0 < factor <= DISCOUNT_WHOLE or factor % 1:
        raise ValueError(f"must be a factor above 0 and up to 1, with at most 4 decimals, such as 0.85, or none, not {text!r}")
    return int(factor)


def format_discount(discount: int) -> str:
    """Return a factor as a decimal: ``"0.85"``, and ``"1"`` for the whole price."""
    return format_yuan(discount * (NANOS_PER_YUAN // DISCOUNT_WHOLE), 0)


def discounted(cost_nanos: int, discount: int) -> Nanos:
    """Return a cost times a factor in ten-thousandths, rounded up to a whole nano-yuan.

    The one place where money is rounded. It is done once, on the sum of a whole request, so a hold and its charge are rounded alike and
    a charge that is within its hold stays within it.
    """
    return Nanos(cost_nanos if discount == DISCOUNT_WHOLE else -(-cost_nanos * discount // DISCOUNT_WHOLE))


def before_discount(nanos: int, discount: int) -> Nanos:
    """Return the highest cost that `discounted` makes no more than an amount."""
    return Nanos(nanos * DISCOUNT_WHOLE // discount)


def format_yuan(nanos: int, decimals_min: int = 2) -> str:
    """Return an amount in yuan as an exact decimal string with at least ``decimals_min`` decimals: ``"0.8640"``."""
    sign = "-" if nanos < 0 else ""
    whole, fraction = divmod(abs(nanos), NANOS_PER_YUAN)
    decimals = str(NANOS_PER_YUAN + fraction)[1:].rstrip("0").ljust(decimals_min, "0")  # faster than a format with zeros
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def _scaled(text: str, *, decimals_max: int, unit: str) -> Nanos:
    if len(text) > 40 or not _PLAIN_DECIMAL.fullmatch(text):
        raise ValueError(f"no decimal number of {unit}: {text!r}")
    amount = Decimal(text)
    exponent = amount.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > decimals_max:
        raise ValueError(f"more than {decimals_max} decimals: {text!r}")
    if abs(amount) > NANOS_MAX // NANOS_PER_YUAN:
        raise ValueError(f"too large an amount: {text!r}")
    return Nanos(int(amount.scaleb(9)))

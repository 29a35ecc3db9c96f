"""Networks and the addresses of callers, as operators and proxies write them."""

import re

import pytest

from proxy.core.bounds import Bounds
from proxy.core.limits import Limits
from proxy.core.networks import HOPS_MAX, UNIX, UNKNOWN, Networks, TrustedProxies, canonical, parse_network
from proxy.core.rates import NO_RATES


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_a_network_is_read(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("10.0.0.5/8", 'is an address within a network: write "10.0.0.0/8" for all of it'),
        ("2001:db8::1/32", 'write "2001:db8::/32"'),
        ("10.0.0.0/33", "must be a network"),
        ("localhost", 'must be a network such as "10.0.0.0/8"'),
        ("", "must be a network"),
        ("10.0.0", "must be a network"),
    ],
)
def test_anything_else_is_refused_with_what_is_right(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_network(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ("192.0.2.7:443", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:C000:207", "192.0.2.7"),
        ("[2001:DB8::1]:443", "2001:db8::1"),
        ("[::ffff:192.0.2.7]", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("unknown", UNKNOWN),
        ("_hidden", UNKNOWN),
        ("", UNKNOWN),
        ("192.0.2.07", UNKNOWN),
        ("192.0.2.7\n", "192.0.2.7"),
    ],
)
def test_one_address_is_written_in_one_way(text: str, address: str) -> None:
    assert canonical(text) == address


def test_an_unknown_address_is_in_no_network() -> None:
    everything = Networks(("0.0.0.0/0", "::/0"))

    assert ["192.0.2.7" in everything, "::1" in everything, UNKNOWN in everything] == [True, True, False]


TRUSTED = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])
UNIX_TRUSTED = TrustedProxies([UNIX])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", (), "192.0.2.7"),
        ("192.0.2.7", ("203.0.113.5",), "192.0.2.7"),  # no proxy of ours: its header is not read
        ("10.0.0.1", (), "10.0.0.1"),
        ("10.0.0.1", ("203.0.113.5",), "203.0.113.5"),
        ("10.0.0.1", ("198.51.100.1, 203.0.113.5, 10.2.2.2", "2001:db8::9"), "203.0.113.5"),
        ("10.0.0.1", ("10.3.3.3, 10.2.2.2",), "10.3.3.3"),  # a client within the trusted network
        ("10.0.0.1", ("203.0.113.5, junk",), UNKNOWN),
        ("10.0.0.1", ("203.0.113.5,",), UNKNOWN),
        ("10.0.0.1", (", ".join(["203.0.113.5"] + ["10.1.1.1"] * (HOPS_MAX - 1)),), "203.0.113.5"),
        ("10.0.0.1", (", ".join(["203.0.113.5"] + ["10.1.1.1"] * HOPS_MAX),), UNKNOWN),
        ("10.0.0.1", ("203.0.113.5", *["10.1.1.1"] * HOPS_MAX), UNKNOWN),
        (UNIX, ("203.0.113.5",), UNKNOWN),
        (UNKNOWN, ("203.0.113.5",), UNKNOWN),
    ],
)
def test_a_client_is_whom_the_last_trusted_proxy_saw(peer: str, forwarded: tuple[str, ...], client: str) -> None:
    for _ in range(2):  # found, and remembered
        assert TRUSTED.client(peer, forwarded) == client


def test_peers_of_unix_sockets_are_trusted_by_name_only() -> None:
    assert UNIX_TRUSTED.client(UNIX, ("203.0.113.5",)) == "203.0.113.5"
    assert UNIX_TRUSTED.client(UNIX, ()) == UNKNOWN
    assert UNIX_TRUSTED.client("10.0.0.1", ("203.0.113.5",)) == "10.0.0.1"


def test_what_is_remembered_is_bounded() -> None:
    proxies = TrustedProxies(["10.0.0.0/8"])
    bounds = Bounds(Limits(networks=("192.0.0.0/8",)), None, ends_at_ms=None, rates=NO_RATES)

    for number in range(20_000):
        address = f"192.0.{number >> 8}.{number & 255}"
        bounds.refuse_address(address)
        assert proxies.client("10.0.0.1", (address,)) == address
    proxies.client("10.0.0.1", ("10.1.1.1, " * 31 + "x" * 10_000,))

    assert max(len(bounds.admitted), len(proxies._clients)) <= 4096
    assert max(sum(map(len, asked)) for asked in proxies._clients) <= 512

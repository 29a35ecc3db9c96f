"""Networks that may call, and whose address a call comes from when proxies stand in front. Pure.

An IPv4 address that is written as IPv6 (``::ffff:192.0.2.1``, RFC 4291 §2.5.5.2) is the IPv4 address: a socket that listens on both
families reports its peers so.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

UNIX = "unix"
"""Peer of a unix socket, and the word that trusts such peers."""
UNKNOWN = ""
"""A peer or a client whose address cannot be told. It is in no network."""
HOPS_MAX = 32
"""Addresses of ``X-Forwarded-For`` that are looked at, from the right. Behind more trusted proxies than this a client is unknown."""
_SEEN_MAX = 4096
"""Answers that are kept, so that a client's address is not parsed for each of its calls."""
_KEPT_CHARACTERS_MAX = 512
_MAPPED_BITS = 96


def parse_network(text: str) -> Network:
    """Return the network of ``10.0.0.0/8``, ``2001:db8::/32`` or one address.

    Raises: ValueError: no network, or an address within one; the message says what is right.
    """
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'must be a network such as "10.0.0.0/8" or "2001:db8::/32", or an address, not {text!r}') from None
    if "/" in text and ip_network(text.partition("/")[0]).network_address != network.network_address:
        raise ValueError(f'{text!r} is an address within a network: write "{network}" for all of it')
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= _MAPPED_BITS:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - _MAPPED_BITS))
    return network


def canonical(text: str) -> str:
    """Return an address as it is compared: without a port, brackets, a scope, or the IPv6 form of an IPv4 address; `UNKNOWN`: none.

    Some load balancers write a port after the address.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return UNKNOWN
    mapped = None if isinstance(address, IPv4Address) else address.ipv4_mapped
    return str(mapped or address)


class Networks:
    """Some networks. They are parsed when they are first needed: of thousands of keys few call."""

    __slots__ = ("_parsed", "_texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """Args: texts: as `parse_network` takes them."""
        self._texts = tuple(texts)
        self._parsed: tuple[Network, ...] | None = None

    def __contains__(self, address: str) -> bool:
        """Return whether a `canonical` address is in one of the networks."""
        if address in (UNKNOWN, UNIX):
            return False
        if self._parsed is None:
            self._parsed = tuple(map(parse_network, self._texts))
        parsed = ip_address(address)
        return any(parsed in network for network in self._parsed)


class TrustedProxies:
    """Proxies whose ``X-Forwarded-For`` is believed (``server.trusted_proxies``)."""

    __slots__ = ("_clients", "_networks", "_trusts_unix", "are_any")

    def __init__(self, trusted: Iterable[str]) -> None:
        """Args: trusted: networks, and `UNIX` for the peers of unix sockets."""
        trusted = tuple(trusted)
        self._trusts_unix = UNIX in trusted
        self._networks = Networks(text for text in trusted if text != UNIX)
        self._clients: dict[tuple[str, ...], str] = {}
        self.are_any = bool(trusted)

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """Return the address that a call comes from; `UNKNOWN` where it cannot be told.

        It is the peer's own, unless the peer is a trusted proxy. Then it is the right-most address of ``X-Forwarded-For`` that is no
        trusted proxy's: what stands left of that one, anybody may have written. If all are trusted, it is the left-most.

        Args:
            peer: `canonical` address of the connection's other end, `UNKNOWN` or `UNIX`.
            forwarded: the values of the header, in their order.
        """
        asked = (peer, *forwarded)
        found = self._clients.get(asked)
        if found is None:
            found = self._find(peer, forwarded)
            if len(self._clients) >= _SEEN_MAX:
                self._clients.clear()
            if sum(map(len, asked)) <= _KEPT_CHARACTERS_MAX:
                self._clients[asked] = found
        return found

    def _find(self, peer: str, forwarded: Sequence[str]) -> str:
        at = UNKNOWN if peer == UNIX else peer
        if not (self._trusts_unix if peer == UNIX else at in self._networks):
            return at
        hops = 0
        for value in reversed(forwarded):
            for hop in reversed(value.rsplit(",", HOPS_MAX)):
                hops += 1
                if hops > HOPS_MAX:
                    return UNKNOWN
                at = canonical(hop)
                if at not in self._networks:
                    return at
        return at

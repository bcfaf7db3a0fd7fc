"""Where a webhook may go: to the public network, and to a private one only where that was allowed.

A name is looked up once for each attempt, and the request goes to the address that was looked at: one that is looked up
again might by then mean another machine.
"""

import asyncio
import ipaddress
import socket
from typing import Final

RESOLVE_S: Final = 5.0
# Mapped (RFC 4291), what was once called compatible (the same), and translated (RFC 6052): the last 32 bits are IPv4's.
_IPV4_BEHIND: Final = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96")))
_TRANSLATED_LOCALLY: Final = ipaddress.IPv6Network("64:ff9b:1::/48")
"""To addresses that only the network itself knows (RFC 8215)."""


class AddressRefusedError(Exception):
    """The name means no address that a webhook may go to."""


class AddressUnknownError(Exception):
    """The name cannot be looked up now."""


async def resolve(host: str, port: int, *, private: bool) -> str:
    """An address (IPv4 or IPv6) of a host. Raises AddressRefusedError, AddressUnknownError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise AddressUnknownError(f"{host} cannot be looked up: {error}") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if private or is_public(address):
            return address
    raise AddressRefusedError(f"{host} is {', '.join(addresses)}: not of the public network, and private is not set")


def is_public(address: str) -> bool:
    """Whether an address is one of the public network, and where it stands for an IPv4 address, that one too."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.is_site_local or parsed in _TRANSLATED_LOCALLY:
            return False
        if (inner := _ipv4_in(parsed)) is not None:
            return inner.is_global and not inner.is_multicast
    return parsed.is_global and not parsed.is_multicast


def _ipv4_in(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The address that a gateway makes of it: a name may mean `64:ff9b::a9fe:a9fe`, which is 169.254.169.254."""
    if any(address in network for network in _IPV4_BEHIND):
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.sixtofour

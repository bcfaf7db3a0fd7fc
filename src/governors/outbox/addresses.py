"""Where a webhook may go: to the public network, and to a private one only where that was allowed.

A name is looked up once for each attempt, and the request goes to the address that was looked at: one that is looked up
again might by then mean another machine.
"""

import asyncio
import ipaddress
import socket
from typing import Final

RESOLVE_S: Final = 5.0


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
    """Whether an address is one of the public network."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_global and not parsed.is_multicast

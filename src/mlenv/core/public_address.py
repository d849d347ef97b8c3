"""Which network addresses are of the public Internet."""

import ipaddress
from typing import Final

#: IPv6 addresses that hold one of IPv4 at their end (RFC 6052, section 2.1).
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """
    Whether an address is one of the public Internet's, and hides none that is not.

    Args:
        address: IPv4, or IPv6 with or without a zone. What an IPv6 address holds of IPv4 counts in its place: mapped
            (RFC 4291, section 2.5.5.2), 6to4 (RFC 3056, section 2), NAT64 (RFC 6052, section 2.1).

    Raises:
        ValueError: It is no address.
    """
    found: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        translated = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF) if found in _NAT64 else None
        found = found.ipv4_mapped or found.sixtofour or translated or found
    return found.is_global and not found.is_multicast

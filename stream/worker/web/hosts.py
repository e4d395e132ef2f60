"""Which names a page answers to, so that a site of elsewhere whose name is made to point here reads nothing (DNS rebinding).

A browser sends the name that it has asked for, and a name can be anybody's. An address cannot: who asks for one, means it.
"""

from __future__ import annotations

import ipaddress
import socket

__all__ = ["AllowedHosts"]


class AllowedHosts:
    """Loopback and what the server is bound to, always; addresses and this machine's name where it is bound to all interfaces.

    Args:
        bound: the address that the server listens at.
        declared: more names, comma-separated; `*` is any.
    """

    def __init__(self, bound: str, declared: str = "") -> None:
        self._names = {_plain(name) for name in declared.split(",") if name.strip()} | {"localhost", _plain(bound)}
        address = _address(bound)
        self._everywhere = address is not None and address.is_unspecified
        if self._everywhere:
            own = _plain(socket.gethostname())
            self._names |= {own, own.partition(".")[0]}

    def allow(self, host: str) -> bool:
        """Of a request's Host header, without the port."""
        name = _plain(host)
        if name in self._names or "*" in self._names:
            return True
        address = _address(name)
        return address is not None and (self._everywhere or address.is_loopback)


def _plain(host: str) -> str:
    return host.strip().strip("[]").rstrip(".").lower()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(_plain(host))
    except ValueError:
        return None

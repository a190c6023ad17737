"""Where the gateway may connect to: the guard against channels that point into the house.

Channel addresses come from the administrator only, never from a request. Still each channel has a
reach, checked for a literal address when the channel is added and for every resolved address at
each connection, so that a name that later resolves elsewhere opens nothing.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from slipway.core.errors import UsageError
from slipway.core.i18n import tr

# public: addresses of the open internet; loopback: those and this machine; private: those and
# private networks. Link-local (cloud metadata), multicast and unspecified ones are never reached.
Reach = Literal["public", "loopback", "private"]


def may_reach(address: str, reach: Reach) -> bool:
    """Whether a channel with this reach may connect to this IP address."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        return False
    if ip.is_loopback:
        return reach != "public"
    return ip.is_global or reach == "private"


def check_base_url(url: str, reach: Reach) -> str:
    """The URL of a channel without its trailing slash and `/v1`.

    Raises:
        UsageError: not an http(s) URL with a host, or a literal address beyond `reach`.
    """
    parts = urlsplit(url.strip())
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.username or parts.query or parts.fragment:
        raise UsageError(
            "gateway.bad_url",
            tr("`{url}` cannot be the address of a channel", url=url),
            tr("write it like `http://127.0.0.1:11434` or `https://api.example.com`"),
        )
    check_host(parts.hostname or "", reach)
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path}"


def check_host(host: str, reach: Reach) -> None:
    """Refuse a literal address, or `localhost`, that lies beyond `reach`; names pass.

    Raises:
        UsageError: it does.
    """
    try:
        allowed = may_reach("127.0.0.1" if host == "localhost" else host, reach)
    except ValueError:
        return
    if not allowed:
        raise UsageError(
            "gateway.address_refused",
            tr("{host} is an address inside this machine or network", host=host),
            tr("if that is meant, add the channel with `--allow-private`"),
        )


class GuardedResolver(AbstractResolver):
    """Resolves names to the addresses that a reach allows.

    Raises (from `resolve`):
        OSError: none is left; the relay takes it as a channel that cannot be connected to.
    """

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        allowed = [entry for entry in found if may_reach(entry["host"], self._reach)]
        if not allowed:
            raise OSError(f"every address of {host} is beyond the channel's reach")
        return allowed

    async def close(self) -> None:
        await self._resolver.close()

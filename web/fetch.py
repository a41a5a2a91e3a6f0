"""Videos from the web, where the server was started with --allow-urls.

A server that fetches what strangers name is a way into its own network. So only http and https are taken, every address
that the name of a host leads to must be public, and the connection goes to the very address that was checked: a name
that leads elsewhere the second time, or a redirect to a private place, gains nothing. Proxies of the environment are
not used, since they would resolve names themselves.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import anyio
import httpcore2

from bsst.errors import InputError, UsageError

__all__ = ["PublicNetwork", "fetched", "url_name"]

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
REDIRECTS = 5
SECONDS = 30.0
"""To connect, and between two pieces of the answer."""


class PublicNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only, resolving a name once for the check and the connection."""

    def __init__(self, inner: httpcore2.AsyncNetworkBackend | None = None) -> None:
        self._inner = inner or httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Resolve, check, connect.

        Raises:
            UsageError: an address of the host is private, of this machine, or reserved.
            InputError: the host has none.
        """
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise InputError(f"expected a host that exists, {host[:80]} has no address; check the URL") from error
        addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
        for address in addresses:
            if not all(part.is_global and not part.is_multicast for part in (address, *_embedded(address))):
                raise UsageError(
                    f"expected a public host, {host[:80]} leads to {address}; download the file and send it"
                )
        return await self._inner.connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)


def _embedded(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address reaches through a translator."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    found += [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] * (address in NAT64)
    return [inner for inner in found if inner is not None]


def url_name(url: str) -> str:
    """What to call the file behind an address.

    Raises:
        UsageError: it is no http or https address of a file.
    """
    parts = urlsplit(url)
    name = unquote(parts.path).rsplit("/", 1)[-1]
    if parts.scheme not in ("http", "https") or not parts.hostname or not name:
        raise UsageError(f"expected a URL such as https://example.org/holiday.mp4, got {url[:80]!r}; correct it")
    return name


@asynccontextmanager
async def fetched(
    url: str, network: httpcore2.AsyncNetworkBackend | None = None
) -> AsyncIterator[tuple[int | None, AsyncIterator[bytes]]]:
    """Open the file behind an address, through redirects.

    Yields:
        The size that the other side announces, None where it does not, and the pieces.

    Raises:
        UsageError: the address, or one that it redirects to, is not of http or https, or not public.
        InputError: the other side does not answer with a file.
    """
    times = {"connect": SECONDS, "read": SECONDS, "write": SECONDS, "pool": SECONDS}
    headers = [("User-Agent", "bsst"), ("Accept-Encoding", "identity")]
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            httpcore2.AsyncConnectionPool(network_backend=network or PublicNetwork(), max_keepalive_connections=0)
        )
        try:
            for _ in range(REDIRECTS + 1):
                url_name(url + ("x" if url.endswith("/") else ""))  # a folder may redirect to a file
                response = await stack.enter_async_context(
                    pool.stream("GET", url, headers=headers, extensions={"timeout": times})
                )
                answer = {name.lower(): value.decode("latin-1") for name, value in response.headers}
                if response.status not in (301, 302, 303, 307, 308):
                    break
                url = urljoin(url, answer.get(b"location", ""))
            if response.status != 200:
                raise InputError(f"expected a video from {url[:80]}, got status {response.status}; check the URL")
            size = answer.get(b"content-length", "")
            yield int(size) if size.isascii() and size.isdigit() else None, response.aiter_stream()
        except (
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
            httpcore2.UnsupportedProtocol,
        ) as e:
            raise InputError(f"expected a video from {url[:80]}, got {type(e).__name__} {e}; check the URL") from e

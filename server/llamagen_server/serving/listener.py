"""The sockets that a server listens on, and the link that leads to them."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

LACKING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
"""Errors of an address that this machine lacks, such as any of IPv6 where that is off."""


@dataclass(frozen=True)
class Listener:
    """Listening sockets, one for each address of ``host``, all with the same port."""

    host: str
    sockets: list[socket.socket]

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return all(_address(listening).is_loopback for listening in self.sockets)

    def link(self, scheme: str) -> str:
        """Returns an address for a browser, such as ``http://[::1]:8000``; localhost if every address is meant."""
        host = "localhost" if _address(self.sockets[0]).is_unspecified else self.host
        return f"{scheme}://{_with_port(host, self.sockets[0].getsockname()[1])}"


@contextmanager
def listen(host: str, port: int) -> Iterator[Listener]:
    """Opens the sockets before the model is loaded: an address in use is reported immediately.

    Args:
        host: an address, with or without brackets, or a name, which stands for all its addresses. ``::`` stands for
            every address of the machine. IPv4 has a socket of its own then: one socket for both families would show
            IPv4 clients as ``::ffff:...``, and a machine may lack IPv6.
        port: 0 chooses a free one.

    Raises:
        ValueError: the port is out of range, or the host cannot be used.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}, must be 0 to 65535 (0 chooses a free one)")
    if not host:
        raise ValueError("--host is empty; 127.0.0.1 is this machine alone, 0.0.0.0 or :: every address that it has")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    with ExitStack() as stack:
        try:
            sockets = [stack.enter_context(opened) for opened in _open(host, port)]
        except OSError as error:
            reason = (error.strerror or str(error)).partition(" (")[0]
            raise ValueError(f"cannot listen on {_with_port(host, port)}: {reason}") from None
        except UnicodeError:
            raise ValueError(f"cannot listen on {host!r}: not the name of a host") from None
        yield Listener(host, sockets)


def _open(host: str, port: int) -> Iterator[socket.socket]:
    """Yields a listening socket for each address of a host, without those that this machine lacks.

    Raises:
        OSError: an address is in use, or the machine has none of them.
    """
    names = ["0.0.0.0", "::"] if host == "::" else [host]
    found = [entry for name in names for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]
    lacking, count = None, 0
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            opened = socket.create_server((address[0], port, *address[2:]), family=family)
        except OSError as error:
            if error.errno not in LACKING:
                raise
            lacking = error
            continue
        # Connections inherit it. Else the second part of a reply waits 40 ms for the client's acknowledgement of the
        # first: asyncio sets it only for sockets that were created with the protocol's number.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = opened.getsockname()[1]
        count += 1
        yield opened
    if lacking and not count:
        raise lacking


def _with_port(host: str, port: int) -> str:
    return f"[{host.replace('%', '%25')}]:{port}" if ":" in host else f"{host}:{port}"  # a zone as in RFC 6874


def _address(listening: socket.socket) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0])

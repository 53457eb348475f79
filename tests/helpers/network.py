"""What the network of the machine that runs the tests has."""

from __future__ import annotations

import socket


def has_ipv6() -> bool:
    """Whether a server can listen on ``::1``."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True

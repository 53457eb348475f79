"""What trusted proxies say about the address that a client used: X-Forwarded-Proto, -For, -Host and -Prefix."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from llamagen_server.api.paths import PREFIX, is_below

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def check_trusted(addresses: str) -> list[str]:
    """Returns the addresses of trusted proxies in a list with commas; ``*`` trusts every client.

    Raises:
        ValueError: one is neither an address nor a network.
    """
    given = [text.strip() for text in addresses.split(",") if text.strip()]
    for text in given:
        try:
            ip_network(text)
        except ValueError:
            if text != "*":
                message = f"--forwarded-allow-ips has {text!r}, must be IP addresses or networks (10.0.0.0/8), or *"
                raise ValueError(message) from None
    return ["*"] if "*" in given else given


class Forwarded(ProxyHeadersMiddleware):
    """Adds host and path prefix to what uvicorn's middleware believes of the hosts it trusts: scheme and client.

    Links in replies have them. Values of another form are ignored. Of several schemes, as two proxies in a row send
    them, the first is the client's.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        client = scope.get("client")
        if scope["type"] == "http" and client and client[0] in self.trusted_hosts:
            headers = MutableHeaders(scope=scope)
            if "x-forwarded-proto" in headers:  # uvicorn reads a single one in lower case
                first = headers["x-forwarded-proto"].partition(",")[0]
                headers["x-forwarded-proto"] = first.strip().lower()
            host, prefix = (_last(headers, f"x-forwarded-{name}") for name in ("host", "prefix"))
            if _HOST.fullmatch(host):
                headers["host"] = host
            if PREFIX.fullmatch(prefix.rstrip("/")):
                scope["root_path"] = prefix.rstrip("/")
        root = scope.get("root_path", "")
        if root and not is_below(scope["path"], root):  # removed by the proxy; redirects need it
            scope["path"] = root + scope["path"]
        await super().__call__(scope, receive, send)


def _last(headers: Headers, name: str) -> str:
    """Returns the value that the nearest proxy added to a list."""
    return ",".join(headers.getlist(name)).rpartition(",")[2].strip()

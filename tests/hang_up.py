"""A client that hangs up in the middle of a reply."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import FastAPI


async def hang_up(app: FastAPI, path: str, body: dict[str, Any], after: bytes | None = None) -> list[dict[str, Any]]:
    """Posts ``body`` with request id "r", hangs up once ``after`` has been sent, or soon; returns what was sent."""
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"r")]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "headers": headers}
    sent: list[dict[str, Any]] = []
    enough = asyncio.Event()

    async def send(message: Any) -> None:
        sent.append(message)
        if after is not None and after in message.get("body", b""):
            enough.set()

    handling = asyncio.create_task(app({**scope, "query_string": b""}, incoming.get, send))
    if after is None:
        await asyncio.sleep(0.1)
    else:
        await asyncio.wait_for(enough.wait(), 5)
    incoming.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(handling, 5)
    return sent

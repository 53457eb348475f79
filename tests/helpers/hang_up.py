"""A client that disconnects in the middle of a reply."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import FastAPI


async def hang_up(app: FastAPI, path: str, body: dict[str, Any], after: bytes | None = None) -> list[dict[str, Any]]:
    """Posts ``body`` with request id "r" and disconnects; returns the messages that were sent until then.

    Args:
        after: disconnects once this has been sent; None: once the engine has the request for every image.
    """
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
    engine = app.state.pipeline.engine
    waiting = engine.until_requested(body.get("n", 1)) if after is None else enough.wait()
    await asyncio.wait_for(waiting, 30)
    incoming.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(handling, 30)
    return sent

"""Server-sent events: an image that grows while the client watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import error_reply
from llamagen_server.core.results import Accepted, GeneratedImage, GenerationResult, OnEvent, Preview

Event = dict[str, Any]
"""The data of one event; its ``type`` is the event's name."""

KEEP_ALIVE_SECONDS = 10.0
KEEP_ALIVE = format_sse_event(comment="keep-alive")
"""A comment, which clients skip: proxies cut off connections that are silent for long."""
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Keep proxies from holding events back; the second one is nginx's."""

Render = Callable[[Preview | GeneratedImage], Awaitable[Event | None]]
Finish = Callable[[GenerationResult], Awaitable[Event]]
Work = Callable[[OnEvent], Coroutine[Any, Any, GenerationResult]]


async def stream_events(request: Request, work: Work, render: Render, finish: Finish) -> StreamingResponse:
    """Runs ``work`` and sends the events that it reports.

    Status and headers are sent as soon as the request is accepted. An error before that is raised, so that
    it becomes an ordinary error reply; a later one is sent as an event. A silent stream gets a comment every
    `KEEP_ALIVE_SECONDS`. A client that disconnects cancels the work.

    Args:
        render: returns the event of a preview or a finished image, or None to send nothing.
        finish: returns the last event of the stream.
    """
    queue: asyncio.Queue[Accepted | Preview | GeneratedImage | None] = asyncio.Queue()
    task = asyncio.create_task(work(queue.put_nowait))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    parts = _parts(queue, task, render, finish)
    try:
        first = await unless_disconnected(request, _first(parts))
    except BaseException:
        task.cancel()
        raise
    return _EventResponse(_rejoin(first, parts), task)


class _EventResponse(StreamingResponse):
    """Cancels the generation when the response ends, for whatever reason, even if it never started."""

    def __init__(self, parts: AsyncIterator[bytes], work: asyncio.Task[GenerationResult]) -> None:
        super().__init__(parts, media_type="text/event-stream", headers=HEADERS)
        self.work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.work.cancel()


async def _parts(
    queue: asyncio.Queue[Accepted | Preview | GeneratedImage | None],
    task: asyncio.Task[GenerationResult],
    render: Render,
    finish: Finish,
) -> AsyncIterator[bytes]:
    """Yields the events and comments of a stream, as they are sent."""
    begun = False
    try:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                    item = await queue.get()
            except TimeoutError:
                begun = True
                yield KEEP_ALIVE
                continue
            if isinstance(item, Accepted):
                begun = True
                yield b""  # sends status and headers
                continue
            event = await (finish(task.result()) if item is None else render(item))
            if event is not None:
                begun = True
                yield _serialize(event)
            if item is None:
                return
    except Exception as error:
        if not begun:
            raise
        yield _serialize({"type": "error", **json.loads(bytes(error_reply(error).body))})


async def _first(parts: AsyncIterator[bytes]) -> bytes:
    return await anext(parts)


async def _rejoin(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for part in rest:
        yield part


def _serialize(event: Event) -> bytes:
    return format_sse_event(event=event["type"], data_str=json.dumps(event))

"""Server-sent events: an image that grows while the client watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import error_reply
from llamagen_server.core.results import GeneratedImage, GenerationResult, OnEvent, Preview

Event = dict[str, Any]
"""The data of one event; its ``type`` is the event's name."""

Render = Callable[[Preview | GeneratedImage], Awaitable[Event | None]]
Finish = Callable[[GenerationResult], Awaitable[Event | None]]
Work = Callable[[OnEvent], Coroutine[Any, Any, GenerationResult]]


async def stream_events(request: Request, work: Work, render: Render, finish: Finish) -> StreamingResponse:
    """Runs ``work`` and sends the events that it reports.

    An error before the first event is raised, so that it becomes an ordinary error reply; a later one is sent as an
    event. A client that disconnects cancels the work.

    Args:
        render: returns the event of a preview or a finished image, or None to send nothing.
        finish: returns the last event of the stream, or None to send nothing.
    """
    queue: asyncio.Queue[Preview | GeneratedImage | None] = asyncio.Queue()
    task = asyncio.create_task(work(queue.put_nowait))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        first = await unless_disconnected(request, queue.get())
        if first is None:
            task.result()  # raises the error, if there was one
    except BaseException:
        task.cancel()
        raise
    return _EventResponse(_events(first, queue, task, render, finish), task)


class _EventResponse(StreamingResponse):
    """Cancels the generation when the response ends, for whatever reason, even if it never started."""

    def __init__(self, events: AsyncIterator[bytes], work: asyncio.Task[GenerationResult]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.work.cancel()


async def _events(
    first: Preview | GeneratedImage | None,
    queue: asyncio.Queue[Preview | GeneratedImage | None],
    task: asyncio.Task[GenerationResult],
    render: Render,
    finish: Finish,
) -> AsyncIterator[bytes]:
    try:
        item = first
        while item is not None:
            if (event := await render(item)) is not None:
                yield _serialize(event)
            item = await queue.get()
        if (event := await finish(task.result())) is not None:
            yield _serialize(event)
    except Exception as error:  # the reply has begun: its status is fixed
        yield _serialize({"type": "error", **json.loads(bytes(error_reply(error).body))})


def _serialize(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()

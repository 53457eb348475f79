"""A load of seeded requests, each of whose images is compared with the one that its seed gives."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import numpy as np
from tests.helpers.image_files import read_b64

PROMPTS = ("a large red circle on a white background", "a small blue square", "a green triangle")


@dataclass
class Outcome:
    """What became of the requests."""

    replies: int = 0
    streams: int = 0
    failures: list[str] = field(default_factory=list)
    different: int = 0
    """Images that are not the one of their seed."""

    @property
    def requests(self) -> int:
        """Requests that are over."""
        return self.replies + len(self.failures)

    def check(self, at_least: int) -> None:
        """Asserts that no request failed and the images are right.

        Rounding may flip a sample on the edge between two codes when a batch is another one; that has to stay rare.
        """
        assert self.failures == []
        assert self.replies >= at_least
        assert self.different <= 0.05 * self.replies


class Load:
    """Clients that send one request after the other; every other one may be a stream.

    ``pause`` is the time in seconds between a client's requests. It may be changed.
    """

    def __init__(self, url: str, *, streams: bool, pause: float = 0) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=300)
        self._streams, self.pause = streams, pause
        self._expected: list[np.ndarray] = []
        self.outcome = Outcome()

    async def learn(self) -> None:
        """Generates each image once, to compare the others with."""
        self._expected = [await self._image(self._body(k)) for k in range(len(PROMPTS))]

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """Keeps ``clients`` requests in flight inside a block; their last ones are answered at its end."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._client(first, stop)) for first in range(clients)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def close(self) -> None:
        await self._http.aclose()

    async def _client(self, first: int, stop: asyncio.Event) -> None:
        number = first
        while not stop.is_set():
            await self._request(number)
            number += 1
            await asyncio.sleep(self.pause)

    async def _request(self, number: int) -> None:
        body = self._body(number % len(PROMPTS))
        stream = self._streams and number % 2 == 1
        try:
            image = await (self._streamed_image(body) if stream else self._image(body))
        except (httpx.HTTPError, AssertionError, KeyError) as error:
            self.outcome.failures.append(f"{'stream' if stream else 'request'} {number}: {error!r}")
            return
        self.outcome.replies += 1
        self.outcome.streams += stream
        self.outcome.different += not np.array_equal(image, self._expected[number % len(PROMPTS)])

    def _body(self, k: int) -> dict[str, object]:
        return {"prompt": PROMPTS[k], "seed": k, "temperature": 1}  # colder, other seeds often agree

    async def _image(self, body: dict[str, object]) -> np.ndarray:
        reply = await self._http.post("/generate", json=body)
        assert reply.status_code == 200, f"{reply.status_code} {reply.text}"
        return np.asarray(read_b64(reply.json()["images"][0]["b64_json"]))

    async def _streamed_image(self, body: dict[str, object]) -> np.ndarray:
        """Returns the final image of a stream with two previews."""
        events: dict[str, dict] = {}
        types = Counter[str]()
        stream = body | {"stream": True, "partial_images": 2}
        async with self._http.stream("POST", "/generate", json=stream) as reply:
            assert reply.status_code == 200, reply.status_code
            async for line in reply.aiter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    events[event["type"]] = event
                    types[event["type"]] += 1
        assert types == {"partial_image": 2, "completed": 1, "done": 1}, dict(types)
        return np.asarray(read_b64(events["completed"]["b64_json"]))

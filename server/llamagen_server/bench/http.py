"""A load test of a running server over HTTP, modelled on ``vllm bench serve``."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from llamagen_server.bench.load import Load, LoadOptions, arrival_times
from llamagen_server.bench.outcomes import Outcome, Row, summary
from llamagen_server.bench.requests import Body, Requests, requests_for
from llamagen_server.bench.server_metrics import Samples, mean_between, quantile_between, read_metrics

logger = logging.getLogger(__name__)

Sent = list["asyncio.Task[Outcome]"]
"""Requests that were sent, in their order; each ends with its outcome and raises nothing."""


def measure_server(options: LoadOptions) -> list[Row]:
    """Runs the loads one after the other and returns the figures of each.

    Raises:
        ValueError: the server does not answer.
    """
    return asyncio.run(_measure(options))


async def _measure(options: LoadOptions) -> list[Row]:
    async with load_client(options) as client:
        rows = []
        for load in options.loads:
            rows.append(await _measure_load(client, load, options))
            logger.info("%s: %.2f images/s", load, rows[-1]["images_per_s"])
    return rows


async def _measure_load(client: LoadClient, load: Load, options: LoadOptions) -> Row:
    await asyncio.gather(*(client.send(-1 - i) for i in range(options.num_warmups)))
    before = await read_metrics(client.http)
    start = time.perf_counter()
    outcomes = await client.run(load)
    seconds = time.perf_counter() - start
    after = await read_metrics(client.http)
    row = summary(outcomes, seconds, options.metrics, options.percentiles, options.goodput_ms)
    return {"load": str(load)} | row | _metric_figures(before, after)


def _metric_figures(before: Samples, after: Samples) -> Row:
    if not (before and after):
        return {"queue_ms": "", "lag_p99_ms": ""}
    return {
        "queue_ms": mean_between(before, after, "vllm:request_queue_time_seconds") * 1000,
        "lag_p99_ms": quantile_between(before, after, "llamagen_event_loop_lag_seconds", 0.99) * 1000,
    }


@asynccontextmanager
async def load_client(options: LoadOptions) -> AsyncIterator[LoadClient]:
    """Yields a client whose requests suit the server's model.

    Raises:
        ValueError: the server does not answer.
    """
    headers = {"authorization": f"Bearer {options.api_key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=options.base_url, headers=headers, timeout=None, limits=limits) as http:
        yield LoadClient(http, await requests_for(options, http), options.timeout)


class RequestError(Exception):
    """A request got no complete reply. ``kind`` is the HTTP status, ``stream`` or the name of an exception."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class LoadClient:
    """Sends requests and times them."""

    def __init__(self, http: httpx.AsyncClient, requests: Requests, timeout: float) -> None:
        self.http, self.requests, self.timeout = http, requests, timeout
        self.arrivals = random.Random(requests.seed)

    async def run(self, load: Load) -> list[Outcome]:
        """Sends all requests of one load; returns their outcomes in the order of the requests."""
        return await asyncio.gather(*await self.launch(load, itertools.count()))

    async def launch(self, load: Load, numbers: Iterator[int]) -> Sent:
        """Sends the requests of one load and returns while the last of them may be unanswered.

        A load with a duration takes that long, or until a request of its closed loop ends after that.

        Args:
            numbers: numbers of the requests, as many as are needed.
        """
        loop = self._closed_loop if load.rate is None else self._open_loop
        end = time.perf_counter() + (load.duration or 0)
        sent = await loop(load, numbers)
        await asyncio.sleep(end - time.perf_counter())
        return sent

    async def _closed_loop(self, load: Load, numbers: Iterator[int]) -> Sent:
        assert load.concurrency
        sent: Sent = []
        gate = asyncio.Semaphore(load.concurrency)
        count, seconds = load.limits
        end = time.perf_counter() + seconds
        for number in itertools.islice(numbers, count):
            await gate.acquire()
            if time.perf_counter() >= end:
                break
            sent.append(asyncio.create_task(self.send(number)))
            sent[-1].add_done_callback(lambda _: gate.release())
        return sent

    async def _open_loop(self, load: Load, numbers: Iterator[int]) -> Sent:
        sent: Sent = []
        start = time.perf_counter()
        for due, number in zip(arrival_times(load, self.arrivals), numbers):
            await asyncio.sleep(start + due - time.perf_counter())
            sent.append(asyncio.create_task(self.send(number, start + due)))
        return sent

    async def send(self, number: int, due: float | None = None) -> Outcome:
        """Sends one request.

        Args:
            number: determines its prompt or class, its kind and its seed.
            due: time from which its latency counts, so that a delay of this client or of the server hides none of
                it; None: now. As from ``time.perf_counter``.
        """
        now = time.perf_counter()
        outcome = Outcome(number, start=now if due is None else due)
        outcome.late_ms = (now - outcome.start) * 1000
        try:
            async with asyncio.timeout(self.timeout):
                await self._request(self.requests.body(number), outcome)
        except RequestError as error:
            outcome.error_kind, outcome.error = error.kind, str(error)
        except TimeoutError:
            outcome.error_kind, outcome.error = "timeout", f"no complete reply within {self.timeout:g} s"
        except (httpx.HTTPError, ValueError, KeyError) as error:
            outcome.error_kind, outcome.error = type(error).__name__, str(error) or type(error).__name__
        outcome.times["e2el"] = (time.perf_counter() - outcome.start) * 1000
        return outcome

    async def _request(self, body: Body, outcome: Outcome) -> None:
        async with self.http.stream("POST", "/generate", json=body) as reply:
            if reply.is_error:
                text = (await reply.aread()).decode(errors="replace")
                raise RequestError(str(reply.status_code), _message(text) or reply.reason_phrase)
            if body.get("stream"):
                await _read_events(reply, outcome)
            else:
                await reply.aread()
                _add_reply(reply.json(), outcome)


async def _read_events(reply: httpx.Response, outcome: Outcome) -> None:
    done = False
    async for line in reply.aiter_lines():
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        if event["type"] == "partial_image":
            outcome.times.setdefault("ttfp", (time.perf_counter() - outcome.start) * 1000)
        elif event["type"] == "completed":
            outcome.images += 1
        elif event["type"] == "error":
            raise RequestError("stream", event["error"]["message"])
        elif event["type"] == "done":
            done = True
            _add_reply(event, outcome)
    if not done:
        raise RequestError("stream", "the stream ended before the image was complete")


def _add_reply(reply: dict[str, Any], outcome: Outcome) -> None:
    outcome.images += len(reply.get("images", ()))
    outcome.times |= {name.removesuffix("_ms"): value for name, value in reply["timings"].items()}


def _message(text: str) -> str:
    """Returns the message of an error reply, or its first line if it is not one of our server's."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip().partition("\n")[0][:200]

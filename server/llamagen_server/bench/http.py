"""A load test of a running server over HTTP, modelled on ``vllm bench serve``."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import Any

import httpx

from llamagen_server.bench.load import Load, LoadOptions, arrival_times
from llamagen_server.bench.outcomes import Outcome, Row, summary
from llamagen_server.bench.server_metrics import mean_between, quantile_between, read_metrics

logger = logging.getLogger(__name__)

Body = dict[str, Any]
"""JSON body of a request to ``POST /generate``."""


def measure_server(options: LoadOptions) -> list[Row]:
    """Runs the loads one after the other and returns the figures of each.

    Raises:
        ValueError: the server does not answer.
    """
    return asyncio.run(_measure(options))


async def _measure(options: LoadOptions) -> list[Row]:
    headers = {"authorization": f"Bearer {options.api_key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=options.base_url, headers=headers, timeout=None, limits=limits) as client:
        load_client = LoadClient(options, client, await _bodies(options, client))
        rows = []
        for load in options.loads:
            rows.append(await _measure_load(load_client, load))
            logger.info("%s: %.2f images/s", load, rows[-1]["images_per_s"])
    return rows


async def _measure_load(client: LoadClient, load: Load) -> Row:
    options = client.options
    await asyncio.gather(*(client.send(-1 - i) for i in range(options.num_warmups)))
    before = await read_metrics(client.http)
    start = time.perf_counter()
    outcomes = await client.run(load)
    seconds = time.perf_counter() - start
    after = await read_metrics(client.http)
    row = summary(outcomes, seconds, options.metrics, options.percentiles, options.goodput_ms)
    row["queue_ms"] = mean_between(before, after, "vllm:request_queue_time_seconds") * 1000
    row["lag_p99_ms"] = quantile_between(before, after, "llamagen_event_loop_lag_seconds", 0.99) * 1000
    return {"load": str(load)} | row


async def _bodies(options: LoadOptions, client: httpx.AsyncClient) -> list[Body]:
    """Returns the bodies that the requests use in turn: one per class of a class model, else one per prompt."""
    try:
        [model] = (await client.get("/v1/models")).raise_for_status().json()["data"]
    except (httpx.HTTPError, ValueError) as error:
        raise ValueError(f"{options.base_url} does not answer as a llamagen server ({error})") from None
    common: Body = {"n": options.n}
    if options.cfg_scale is not None:
        common["cfg_scale"] = options.cfg_scale
    if options.partial_images:
        common |= {"stream": True, "partial_images": options.partial_images}
    if model["condition"] == "class":
        return [{"class_id": i, **common} for i in range(model["num_classes"])]
    return [{"prompt": prompt, **common} for prompt in options.prompts]


class LoadClient:
    """Sends requests and times them."""

    def __init__(self, options: LoadOptions, http: httpx.AsyncClient, bodies: list[Body]) -> None:
        self.options, self.http, self.bodies = options, http, bodies

    async def run(self, load: Load) -> list[Outcome]:
        """Sends all requests of one load; returns their outcomes in the order of the requests."""
        if load.rate is None:
            assert load.concurrency
            return await self._run_closed_loop(load.concurrency)
        return await self._run_open_loop(load.rate)

    async def _run_closed_loop(self, concurrency: int) -> list[Outcome]:
        gate = asyncio.Semaphore(concurrency)

        async def gated(i: int) -> Outcome:
            async with gate:
                return await self.send(i)

        return await asyncio.gather(*(gated(i) for i in range(self.options.num_prompts)))

    async def _run_open_loop(self, rate: float) -> list[Outcome]:
        options, tasks = self.options, []
        start = time.perf_counter()
        for i, due in enumerate(arrival_times(options.num_prompts, rate, options.burstiness, options.seed)):
            await asyncio.sleep(start + due - time.perf_counter())
            tasks.append(asyncio.create_task(self.send(i)))
        return await asyncio.gather(*tasks)

    async def send(self, i: int) -> Outcome:
        """Sends request ``i``, whose number determines its prompt or class and its seed."""
        body = self.bodies[i % len(self.bodies)] | {"seed": abs(i) + 1000 * self.options.seed}
        outcome, start = Outcome(), time.perf_counter()
        try:
            if self.options.partial_images:
                await self._stream(body, outcome, start)
            else:
                reply = await self.http.post("/generate", json=body)
                _add_reply(reply.raise_for_status().json(), outcome)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            outcome.error = str(error) or type(error).__name__
        outcome.times["e2el"] = (time.perf_counter() - start) * 1000
        return outcome

    async def _stream(self, body: Body, outcome: Outcome, start: float) -> None:
        async with self.http.stream("POST", "/generate", json=body) as reply:
            reply.raise_for_status()
            async for line in reply.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["type"] == "partial_image":
                    outcome.times.setdefault("ttfp", (time.perf_counter() - start) * 1000)
                elif event["type"] == "completed":
                    outcome.images += 1
                elif event["type"] == "error":
                    raise ValueError(event["error"]["message"])
                elif event["type"] == "done":
                    _add_reply(event, outcome)


def _add_reply(reply: dict[str, Any], outcome: Outcome) -> None:
    outcome.images += len(reply.get("images", ()))
    outcome.times |= {name.removesuffix("_ms"): value for name, value in reply["timings"].items()}

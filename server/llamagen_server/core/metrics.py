"""Prometheus metrics of this server. vLLM registers its own alongside them; ``GET /metrics`` shows both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram

from llamagen_server.core.errors import DeadlineError, InvalidRequestError, OverloadedError

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0)

REPLIES = Counter(
    "llamagen_http_replies",
    "Replies by HTTP status. 499: the client disconnected; aborted: no reply was started.",
    ["status"],
)
REQUESTS = Counter("llamagen_requests", "Requests for images, by outcome.", ["outcome"])
REJECTED = Counter(
    "llamagen_rejected",
    "Requests refused with status 429. full: no place is free; share: the client holds its share of the places; "
    "deadline: the queue is longer than the request's timeout.",
    ["reason"],
)
IMAGES = Counter("llamagen_images", "Finished images.")
IN_FLIGHT = Gauge("llamagen_images_in_flight", "Images that are accepted and not finished.")
IN_FLIGHT_LIMIT = Gauge(
    "llamagen_images_in_flight_limit", "Limit of images in flight; requests above it get status 429."
)
READY = Gauge(
    "llamagen_ready",
    "1 while images can be generated; 0 while the model loads, a new engine starts or the server stops.",
)
STAGE = Histogram("llamagen_stage_seconds", "Seconds in a stage, including its queue.", ["stage"], buckets=SECONDS)
WAITING = Gauge("llamagen_stage_waiting", "Items in the queue of a stage around the engine.", ["stage"])
LAG = Histogram(
    "llamagen_event_loop_lag_seconds",
    "Delay between the time a callback is due and the time the event loop runs it.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0),
)
FIRST_PREVIEW = Histogram(
    "llamagen_first_preview_seconds", "Seconds from a request to the first preview of its first image.", buckets=SECONDS
)
GUIDED = Counter(
    "llamagen_guided_images",
    "Images that the engine began, by the branches that their tokens are sampled from. "
    "2: guided, both branches are mixed; 1: cfg_scale is 1, the conditional branch alone.",
    ["branches"],
)
UNGUIDED = Counter("llamagen_unguided", "Images that asked for guidance and were sampled without it; must stay 0.")
ENGINE_RESTARTS = Counter(
    "llamagen_engine_restarts", "Engines that were replaced, by the way the last one failed.", ["how"]
)
IMAGES_RESUMED = Counter("llamagen_images_resumed", "Images that went on in a new engine.")
TASKS = Gauge("llamagen_event_loop_tasks", "asyncio tasks of the server.")
REQUEST = Histogram(
    "llamagen_request_seconds", "Seconds from a request for images to its end, whatever its outcome.", buckets=SECONDS
)

OUTCOMES = ("ok", "refused", "overloaded", "late", "abandoned", "failed")
REASONS = ("full", "share", "deadline")
"""Reasons of a refusal, see `pipeline.admission.Admission`."""
STAGES = ("text", "engine", "decode", "encode", "file")
"""Timed steps of a request. Text, decode (codes to pixels) and encode (pixels to codes) have a queue of ours,
the engine has vLLM's; file makes the image file."""
LAG_INTERVAL = 0.02
"""Seconds between two measurements of the event loop's lag."""

for _outcome in OUTCOMES:
    REQUESTS.labels(_outcome)  # a series that does not exist yet looks like a misspelt one
for _how in ("ended", "hung"):
    ENGINE_RESTARTS.labels(_how)
for _reason in REASONS:
    REJECTED.labels(_reason)
for _stage in STAGES:
    STAGE.labels(_stage)
for _stage in ("text", "decode", "encode"):
    WAITING.labels(_stage)
for _branches in ("1", "2"):
    GUIDED.labels(_branches)


def _count_tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # read outside the event loop
        return 0


TASKS.set_function(_count_tasks)


async def watch_event_loop() -> None:
    """Measures the event loop's lag until it is cancelled."""
    due = time.perf_counter()
    while True:
        due += LAG_INTERVAL  # on a fixed grid, so that a long stall counts once for every measurement it delays
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        LAG.observe(max(0.0, time.perf_counter() - due))


@contextmanager
def count_request() -> Iterator[None]:
    """Counts a request for images by its outcome, and times it."""
    outcome = "failed"
    try:
        with REQUEST.time():
            yield
        outcome = "ok"
    except InvalidRequestError:
        outcome = "refused"
        raise
    except OverloadedError:
        outcome = "overloaded"
        raise
    except DeadlineError:
        outcome = "late"
        raise
    except asyncio.CancelledError:
        outcome = "abandoned"
        raise
    finally:
        REQUESTS.labels(outcome).inc()

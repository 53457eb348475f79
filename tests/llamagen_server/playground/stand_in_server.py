"""Stand-in for ``llamagen serve``: the part of its API that the playground uses; its images are coloured circles."""

from __future__ import annotations

import asyncio
import io
import json
import random
import threading
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image, ImageDraw
from tests.helpers.image_files import b64_png, png

from llamagen_server.api.routes import playground
from llamagen_server.core.sampling import SamplingDefaults

SIZE, GRID = 128, 8
CELL = SIZE // GRID
LABELS = {"0": ["tench", "Tinca tinca"], "1": ["goldfish", "Carassius auratus"], "2": ["tiger shark"]}

Event = dict[str, Any]


@dataclass
class Scenario:
    """Behaviour of the stand-in server, and a record of the requests that it received."""

    names: tuple[str, ...] = ("tiny-text",)
    """Models of the server; those whose name ends with ``class`` are class models."""
    roots: tuple[str, ...] = ()
    """``root`` of each name, if it is sent."""
    guided: bool = True
    key: str | None = None
    """Required API key."""
    ready: bool = True
    has_ready: bool = True
    """False: the server has no ``/ready``, as vLLM's own has none."""
    error: str | None = None
    """Message of an error event after the first preview."""
    truncated: bool = False
    """End the reply after the first preview."""
    stalled: bool = False
    """Send nothing after the first preview, until the client disconnects."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    disconnected: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released whenever a client disconnects before the end of a reply."""

    def model(self, name: str) -> dict[str, Any]:
        condition = "class" if name.endswith("class") else "text"
        model = {
            "id": name, "object": "model", "created": 0, "owned_by": "llamagen-serve",
            "condition": condition, "image_size": SIZE, "grid_size": GRID, "guided": self.guided,
            "defaults": asdict(SamplingDefaults(cfg_scale=3.0, temperature=1.0, top_k=0, top_p=1.0)),
        }  # fmt: skip
        return model | ({"num_classes": 1000} if condition == "class" else {})


def render(fields: dict[str, Any], seed: int) -> Image.Image:
    """A circle that depends on the condition, the guidance scale and the seed."""
    condition = [str(fields.get(name)) for name in ("prompt", "class_id", "cfg_scale")]
    rng = random.Random(repr((condition, seed)))
    image = Image.new("RGB", (SIZE, SIZE), rng.choice(("#fafaf8", "#1a2a62", "#eedab4")))
    x, y, r = rng.randrange(40, 88), rng.randrange(40, 88), rng.randrange(16, 36)
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=rng.choice(("#de3430", "#34a050", "#8846be")))
    return image


def preview(image: Image.Image, rows: int) -> Image.Image:
    """The image with every row of the grid from ``rows`` on replaced by the row above, as the real server fills it."""
    partial = image.copy()
    last = image.crop((0, (rows - 1) * CELL, SIZE, rows * CELL))
    for row in range(rows, GRID):
        partial.paste(last, (0, row * CELL))
    return partial


def inpainted(fields: dict[str, Any], original: Image.Image, keep: Image.Image) -> Image.Image:
    return Image.composite(original, render(fields, int(fields["seed"])), keep)


def error_reply(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "error", "param": None, "code": None}}, status)


def make_app(scenario: Scenario) -> FastAPI:
    app = FastAPI()
    app.include_router(playground.router)

    @app.middleware("http")
    async def check_key(request: Request, call_next: Any) -> Response:
        guarded = request.url.path.startswith(("/v1", "/generate"))
        if guarded and scenario.key and request.headers.get("authorization") != f"Bearer {scenario.key}":
            return error_reply(401, "the API key is missing or wrong")
        return await call_next(request)

    @app.get("/ready")
    async def ready() -> Response:
        if not scenario.has_ready:
            return error_reply(404, "Not Found")
        return Response() if scenario.ready else error_reply(503, "the model is still loading")

    @app.get("/v1/models")
    async def models() -> Any:
        listed = [scenario.model(name) for name in scenario.names]
        for model, root in zip(listed, scenario.roots, strict=False):
            model["root"] = root
        return {"object": "list", "data": listed}

    @app.get("/v1/models/{name}")
    async def model(name: str, labels: str | None = None) -> Any:
        return scenario.model(name) | ({"labels": LABELS} if name.endswith("class") and labels == "" else {})

    @app.post("/generate")
    async def generate(request: Request) -> Response:
        fields = await request.json()
        scenario.requests.append(fields)
        if fields.get("prompt") == "refuse":
            return error_reply(400, "prompt is 'refuse': not today")
        if not fields.get("stream"):
            return Response(png(render(fields, fields["seed"])), media_type="image/png")
        return event_stream(scenario, _generation_events(fields))

    @app.post("/v1/images/edits")
    async def edits(request: Request) -> Response:
        async with request.form() as form:
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            original = Image.open(io.BytesIO(await form["image"].read())).convert("RGB")
            if "mask" in form:
                keep = Image.open(io.BytesIO(await form["mask"].read())).getchannel("A")
            else:
                keep = Image.new("L", (SIZE, SIZE))
                keep.paste(255, (0, 0, SIZE, int(fields["keep_rows"]) * CELL))
        scenario.requests.append(fields | {"keep": keep})
        if "stream" not in fields:
            return JSONResponse({"data": [{"b64_json": b64_png(inpainted(fields, original, keep))}]})
        return event_stream(scenario, _edit_events(fields, original, keep))

    return app


def event_stream(scenario: Scenario, events: AsyncIterator[Event]) -> StreamingResponse:
    """The events as the scenario wants them, up to an error, an early end or a stall."""

    async def lines() -> AsyncIterator[str]:
        try:
            async for event in events:
                yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
                if scenario.error:
                    yield f"data: {json.dumps({'type': 'error', 'error': {'message': scenario.error}})}\n\n"
                if scenario.error or scenario.truncated:
                    return
                if scenario.stalled:
                    await asyncio.Event().wait()
        except asyncio.CancelledError:
            scenario.disconnected.release()
            raise

    return StreamingResponse(lines(), media_type="text/event-stream")


async def _generation_events(fields: dict[str, Any]) -> AsyncIterator[Event]:
    seed, previews = fields.get("seed", random.randrange(2**32)), fields["partial_images"]
    images = [render(fields, seed + index) for index in range(fields["n"])]
    for i in range(previews):
        for index, image in enumerate(images):
            partial = b64_png(preview(image, GRID * (2 * i + 1) // (2 * previews)))
            yield {"type": "partial_image", "index": index, "partial_image_index": i, "b64_json": partial}
    for index, image in enumerate(images):
        yield {"type": "completed", "index": index, "b64_json": b64_png(image), "seed": seed + index}
    yield {"type": "done", "id": "r", "usage": {}, "timings": {"total_ms": 1234.5}}


async def _edit_events(fields: dict[str, Any], original: Image.Image, keep: Image.Image) -> AsyncIterator[Event]:
    fields.setdefault("seed", str(random.randrange(2**32)))
    image, previews = inpainted(fields, original, keep), int(fields["partial_images"])
    for i in range(previews):
        partial, rows = original.copy(), SIZE * (2 * i + 1) // (2 * previews)
        partial.paste(image.crop((0, 0, SIZE, rows)))
        yield {"type": "image_edit.partial_image", "partial_image_index": i, "b64_json": b64_png(partial)}
    yield {"type": "image_edit.completed", "b64_json": b64_png(image), "seed": int(fields["seed"])}

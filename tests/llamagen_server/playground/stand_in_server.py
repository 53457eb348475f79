"""A server that speaks the API of `llamagen serve` as far as the playground needs it, and draws coloured shapes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from PIL import Image, ImageDraw

from llamagen_server.api.routes import playground

SIZE, GRID = 128, 8
LABELS = {"0": ["tench", "Tinca tinca"], "1": ["goldfish", "Carassius auratus"], "2": ["tiger shark"]}


@dataclass
class Stage:
    """What the server is to play, and what it was asked."""

    condition: str = "text"
    guided: bool = True
    key: str | None = None
    ready: bool = True
    step: float = 0.03
    """Seconds per preview."""
    error: str | None = None
    """Told after the first preview."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    cancelled: int = 0

    def model(self) -> dict[str, Any]:
        defaults = {"cfg_scale": 3.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        model = {
            "id": f"tiny-{self.condition}", "object": "model", "created": 0, "owned_by": "llamagen-serve",
            "condition": self.condition, "image_size": SIZE, "grid_size": GRID, "guided": self.guided,
            "defaults": defaults,
        }  # fmt: skip
        return model | ({"num_classes": 1000} if self.condition == "class" else {})


def draw(request: dict[str, Any], seed: int) -> Image.Image:
    """A shape that depends on the condition, the guidance scale and the seed."""
    told = [str(request.get(name)) for name in ("prompt", "class_id", "cfg_scale")]
    rng = random.Random(repr((told, seed)))
    image = Image.new("RGB", (SIZE, SIZE), rng.choice(("#fafaf8", "#1a2a62", "#eedab4")))
    x, y, r = rng.randrange(40, 88), rng.randrange(40, 88), rng.randrange(16, 36)
    ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=rng.choice(("#de3430", "#34a050", "#8846be")))
    return image


def unfinished(image: Image.Image, rows: int) -> Image.Image:
    """The top rows of the grid; below, the last one again and again, as the real server fills them."""
    cell = SIZE // GRID
    last = image.crop((0, (rows - 1) * cell, SIZE, rows * cell))
    partial = image.copy()
    for row in range(rows, GRID):
        partial.paste(last, (0, row * cell))
    return partial


def redrawn(request: dict[str, Any], old: Image.Image, keep: Image.Image, seed: int) -> Image.Image:
    return Image.composite(old, draw(request, seed), keep)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def b64(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "error", "param": None, "code": None}}, status)


def make_app(stage: Stage) -> FastAPI:
    app = FastAPI()
    app.include_router(playground.router)

    @app.middleware("http")
    async def check_key(request: Request, call_next: Any) -> Response:
        guarded = request.url.path.startswith(("/v1", "/generate"))
        if guarded and stage.key and request.headers.get("authorization") != f"Bearer {stage.key}":
            return problem(401, "the API key is missing or wrong")
        return await call_next(request)

    @app.get("/ready")
    async def ready() -> Response:
        return Response() if stage.ready else problem(503, "the model is still loading")

    @app.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [stage.model()]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Any:
        return stage.model() | ({"labels": LABELS} if stage.condition == "class" else {})

    @app.post("/generate")
    async def generate(request: Request) -> Response:
        body = await request.json()
        stage.requests.append(body)
        if body.get("prompt") == "refuse":
            return problem(400, "prompt is 'refuse': not today")
        if not body.get("stream"):
            return Response(png(draw(body, body["seed"])), media_type="image/png")
        return StreamingResponse(_watched(stage, _pictures(stage, body)), media_type="text/event-stream")

    @app.post("/v1/images/edits")
    async def edits(request: Request) -> Response:
        async with request.form() as form:
            body = {name: value for name, value in form.items() if isinstance(value, str)}
            old = Image.open(io.BytesIO(await form["image"].read())).convert("RGB")
            keep = Image.new("L", (SIZE, SIZE))
            if "mask" in form:
                keep = Image.open(io.BytesIO(await form["mask"].read())).getchannel("A")
            else:
                keep.paste(255, (0, 0, SIZE, int(body["keep_rows"]) * SIZE // GRID))
        stage.requests.append(body | {"keep": keep})
        if "stream" not in body:
            return JSONResponse({"data": [{"b64_json": b64(redrawn(body, old, keep, int(body["seed"])))}]})
        return StreamingResponse(_watched(stage, _edit(stage, body, old, keep)), media_type="text/event-stream")

    return app


async def _watched(stage: Stage, events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for event in events:
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
    except asyncio.CancelledError:
        stage.cancelled += 1
        raise


async def _pictures(stage: Stage, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    seed, previews = body.get("seed", random.randrange(2**32)), body["partial_images"]
    images = [draw(body, seed + index) for index in range(body["n"])]
    for i in range(previews):
        await asyncio.sleep(stage.step)
        for index, image in enumerate(images):
            partial = b64(unfinished(image, GRID * (2 * i + 1) // (2 * previews)))
            yield {"type": "partial_image", "index": index, "partial_image_index": i, "b64_json": partial}
        if stage.error:
            yield {"type": "error", "error": {"message": stage.error}}
            return
    await asyncio.sleep(stage.step)
    for index, image in enumerate(images):
        yield {"type": "completed", "index": index, "b64_json": b64(image), "seed": seed + index}
    yield {"type": "done", "id": "r", "usage": {}, "timings": {"total_ms": 1234.5}}


async def _edit(
    stage: Stage, body: dict[str, Any], old: Image.Image, keep: Image.Image
) -> AsyncIterator[dict[str, Any]]:
    seed, previews = int(body.get("seed", random.randrange(2**32))), int(body["partial_images"])
    new = redrawn(body, old, keep, seed)
    for i in range(previews):
        await asyncio.sleep(stage.step)
        partial, rows = old.copy(), SIZE * (2 * i + 1) // (2 * previews)
        partial.paste(new.crop((0, 0, SIZE, rows)))
        yield {"type": "image_edit.partial_image", "partial_image_index": i, "b64_json": b64(partial)}
    yield {"type": "image_edit.completed", "b64_json": b64(new), "seed": seed}


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """Serves in a thread; gives the address."""
    config = uvicorn.Config(app, port=0, lifespan="off", ws="none", log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()

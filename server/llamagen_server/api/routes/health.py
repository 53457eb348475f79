"""Routes for operators and load balancers: liveness, readiness, load, version, metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from llamagen_server import __version__
from llamagen_server.api.dependencies import LoadedPipeline
from llamagen_server.api.errors import unavailable
from llamagen_server.api.openapi import errors
from llamagen_server.pipeline.pipeline import Pipeline

router = APIRouter(tags=["health"])


class Load(BaseModel):
    server_load: int = Field(description="Images that are accepted and not finished.")


class Version(BaseModel):
    version: str


@router.get("/health", response_class=Response, responses=errors(503))
async def liveness(request: Request) -> Response:
    """200 while the process works, also while it loads the model, replaces the engine or drains; 503 if the engine has
    ended for good."""
    pipeline: Pipeline | None = request.app.state.pipeline
    if pipeline is not None:
        await pipeline.engine.check_health()
    return Response()


@router.get("/ready", response_class=Response, responses=errors(503))
@router.get("/ping", response_class=Response, responses=errors(503))
@router.post("/ping", include_in_schema=False)
async def readiness(pipeline: LoadedPipeline) -> Response:
    """200 if images can be generated now; 503 while the model loads, the engine restarts, or the server drains."""
    await pipeline.engine.check_health()
    if not pipeline.engine.is_running:
        raise unavailable("the engine restarts")
    return Response()


@router.get("/version")
async def version() -> Version:
    return Version(version=__version__)


@router.get("/load", responses=errors(503))
async def load(pipeline: LoadedPipeline) -> Load:
    return Load(server_load=pipeline.admission.in_flight)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics() -> Response:
    """vLLM's metrics and ours (``llamagen_*``), for Prometheus."""
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

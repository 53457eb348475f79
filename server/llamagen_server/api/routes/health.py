"""What operators and load balancers ask: health, readiness, load, metrics; and the list of models."""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from llamagen_server import __version__
from llamagen_server.api.dependencies import LoadedPipeline, ModelName
from llamagen_server.api.errors import ApiError
from llamagen_server.api.openapi import errors
from llamagen_server.model_dir import ModelDir
from llamagen_server.model_dir.generation_config import SamplingDefaults

router = APIRouter(tags=["system"])
_started = int(time.time())


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time of the server's start, seconds.")
    owned_by: str = "llamagen-serve"
    condition: Literal["text", "class"]
    guided: bool = Field(description="False: cfg_scale must be 1.")
    image_size: int = Field(description="Pixels per side.")
    grid_size: int = Field(description="Codes per side.")
    num_classes: int | None = None
    defaults: SamplingDefaults = Field(description="Sampling of requests that do not say.")
    labels: dict[int, list[str]] | None = Field(
        default=None, description="Names of the classes; not in the list of models."
    )


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Load(BaseModel):
    server_load: int = Field(description="Pictures that are accepted and not finished.")


class Version(BaseModel):
    version: str


@router.get("/health", response_class=Response, responses=errors(503))
@router.get("/ready", response_class=Response, responses=errors(503))
@router.get("/ping", response_class=Response, responses=errors(503))
@router.post("/ping", include_in_schema=False)
async def health(pipeline: LoadedPipeline) -> Response:
    """200 when pictures can be made; 503 while the model loads, while the server stops or when the engine is gone."""
    await pipeline.engine.check_health()
    return Response()


@router.get("/version")
async def version() -> Version:
    return Version(version=__version__)


@router.get("/load", responses=errors(503))
async def load(pipeline: LoadedPipeline) -> Load:
    return Load(server_load=pipeline.in_flight)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics() -> Response:
    """vLLM's metrics and ours (``llamagen_*``), for Prometheus."""
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/v1/models", responses=errors(503), response_model_exclude_none=True)
async def models(name: ModelName, pipeline: LoadedPipeline) -> ModelList:
    return ModelList(data=[_model(name, pipeline.model)])


@router.get("/v1/models/{model_id:path}", responses=errors(404, 503), response_model_exclude_none=True)
async def model(model_id: str, name: ModelName, pipeline: LoadedPipeline) -> Model:
    """The model, with the names of its classes."""
    if model_id != name:
        raise ApiError(404, f"model {model_id!r} does not exist; this server has {name!r}", "model", "model_not_found")
    return _model(name, pipeline.model).model_copy(update={"labels": pipeline.model.labels})


def _model(name: str, model: ModelDir) -> Model:
    config = model.config
    return Model(
        id=name,
        created=_started,
        condition=config.condition,
        guided=config.guidance_streams == 2,
        image_size=model.image_size,
        grid_size=config.grid_size,
        num_classes=config.num_classes if config.condition == "class" else None,
        defaults=model.defaults,
    )

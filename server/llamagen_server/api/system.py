"""Health and the list of models."""

from __future__ import annotations

import time

from fastapi import APIRouter, Response
from pydantic import BaseModel

from llamagen_server.api.state import LoadedPipeline, ModelName

router = APIRouter(tags=["system"])
_started = int(time.time())


class Model(BaseModel):
    id: str
    object: str = "model"
    created: int
    owned_by: str = "llamagen-serve"


class ModelList(BaseModel):
    object: str = "list"
    data: list[Model]


@router.get("/health")
async def health(pipeline: LoadedPipeline) -> Response:
    """200 when the engine runs and pictures can be made, 503 while the model loads or when the engine is gone."""
    await pipeline.engine.check_health()
    return Response()


@router.get("/v1/models")
async def models(name: ModelName) -> ModelList:
    return ModelList(data=[Model(id=name, created=_started)])

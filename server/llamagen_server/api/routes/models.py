"""``GET /v1/models``: the served model, its size and its sampling defaults."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from llamagen_server.api.dependencies import LoadedPipeline, ModelNames
from llamagen_server.api.errors import ApiError
from llamagen_server.api.openapi import errors
from llamagen_server.core.sampling import SamplingDefaults
from llamagen_server.model_dir import ModelDir
from llamagen_server.model_dir.labels import search_classes

router = APIRouter(tags=["models"])
_started = int(time.time())


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time of the server's start, seconds.")
    owned_by: str = "llamagen-serve"
    root: str = Field(description="The model's first name, of which its other names are aliases.")
    condition: Literal["text", "class"]
    guided: bool = Field(description="Whether the server runs both branches; if false, cfg_scale must be 1.")
    image_size: int = Field(description="Pixels per side.")
    grid_size: int = Field(description="Image tokens per side.")
    num_classes: int | None = None
    defaults: SamplingDefaults = Field(description="Sampling parameters of requests that omit them.")
    labels: dict[int, list[str]] | None = Field(
        default=None, description="Names of the classes, if the query `labels` asks for them."
    )


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/v1/models", responses=errors(503), response_model_exclude_none=True)
async def models(names: ModelNames, pipeline: LoadedPipeline) -> ModelList:
    """Lists the served model under each of its names."""
    return ModelList(data=[_model(name, names[0], pipeline.model) for name in names])


@router.get("/v1/models/{model_id:path}", responses=errors(404, 503), response_model_exclude_none=True)
async def model(
    model_id: str,
    names: ModelNames,
    pipeline: LoadedPipeline,
    labels: Annotated[
        str | None,
        Query(description="Adds the classes of which one name has all these words, or whose id it is; all if empty."),
    ] = None,
) -> Model:
    """Returns the model, and the names of its classes if they are asked for."""
    if model_id not in names:
        raise model_not_found(model_id, names)
    found = _model(model_id, names[0], pipeline.model)
    if labels is not None and pipeline.model.labels is not None:
        found.labels = search_classes(labels, pipeline.model.labels)
    return found


def model_not_found(model_id: str | None, names: Sequence[str]) -> ApiError:
    message = f"model {model_id!r} does not exist; this server has {', '.join(map(repr, names))}"
    return ApiError(404, message, "model", "model_not_found")


def check_model(name: str | None, names: Sequence[str]) -> None:
    """Refuses requests for a model that this server does not have.

    Raises:
        ApiError: 404.
    """
    if name not in (None, "", *names):
        raise model_not_found(name, names)


def _model(name: str, root: str, model: ModelDir) -> Model:
    config = model.config
    return Model(
        id=name,
        created=_started,
        root=root,
        condition=config.condition,
        guided=config.cfg_branches == 2,
        image_size=model.image_size,
        grid_size=config.grid_size,
        num_classes=config.num_classes if config.condition == "class" else None,
        defaults=model.defaults,
    )

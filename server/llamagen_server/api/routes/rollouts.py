"""Rollouts for a remote trainer, and the routes by which it changes the weights: ``llamagen serve --rollouts``.

Names and bodies of the routes for weights are those of vLLM's server, so that its client,
``vllm.distributed.weight_transfer.HTTPVLLMWeightSyncClient``, works as it is.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamagen_server.api.dependencies import Client, LoadedPipeline, RequestId
from llamagen_server.api.disconnect import unless_disconnected
from llamagen_server.api.errors import ApiError
from llamagen_server.api.openapi import errors
from llamagen_server.api.replies import b64, image_file
from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.core.request import MAX_PROMPT, MAX_RANDOM_SEED, MAX_SEED, Boolean, Integer
from llamagen_server.pipeline.condition import resolve_condition
from llamagen_server.rollout.group import Rollout, RolloutGroup, RolloutRequest, group_of


async def _is_no_page(request: Request) -> None:
    """Refuses web pages: they can send a request without a body to any server that their visitor reaches."""
    if origin := request.headers.get("origin"):
        raise ApiError(403, f"origin is {origin}: web pages may not use this route")


router = APIRouter(tags=["rollouts"], dependencies=[Depends(_is_no_page)])

MAX_GROUPS = 1024
ERRORS = errors(400, 413, 415, 429, 503, 504)


class RolloutsBody(RolloutRequest):
    """Fields of `RolloutRequest` for several prompts or classes. Sample j of group i has the seed seed + i * n + j."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompts": ["a red circle"], "n": 4, "seed": 7}]})

    prompts: Annotated[list[Annotated[str, Field(max_length=MAX_PROMPT)]], Field(max_length=MAX_GROUPS)] | None = Field(
        None, description="Prompts, for text models; a group each."
    )
    class_ids: Annotated[list[Integer], Field(max_length=MAX_GROUPS)] | None = Field(
        None, description="Classes, for class models; a group each."
    )
    images: Boolean = Field(False, description="Also return the images, as PNG.")

    @model_validator(mode="after")
    def has_one_kind_of_condition(self) -> Self:
        if self.prompt is not None or self.class_id is not None or self.class_label is not None:
            raise InvalidRequestError("rollouts have lists: give prompts or class_ids", "prompts")
        if bool(self.prompts) == bool(self.class_ids):
            raise InvalidRequestError("give prompts or class_ids, at least one", "prompts")
        return self

    def requests(self) -> list[RolloutRequest]:
        """Returns one request for each group."""
        own = {"prompts", "class_ids", "images", "seed", "guidance_scale"}
        shared = {name: value for name, value in self if name not in own and name in self.model_fields_set}
        shared["cfg_scale"] = self.cfg_scale
        first = secrets.randbelow(MAX_RANDOM_SEED + 1) if self.seed is None else self.seed
        name, conditions = ("prompt", self.prompts) if self.prompts else ("class_id", self.class_ids)
        assert conditions
        return [
            RolloutRequest(**{name: condition, **shared}, seed=(first + i * self.n) % (MAX_SEED + 1))
            for i, condition in enumerate(conditions)
        ]


class RolloutItem(BaseModel):
    seed: int = Field(description="Seed of this sample.")
    codes: list[int] = Field(description="Code of each image token, in raster order.")
    logprobs: list[float] | None = Field(
        None, description="Log-probability of each code in the distribution that it was sampled from."
    )
    conditional_logprobs: list[float] | None = Field(
        None, description="With branch_logprobs: that of each code in the conditional branch alone."
    )
    unconditional_logprobs: list[float] | None = Field(None, description="The same in the unconditional branch.")
    b64_json: str | None = Field(None, description="With images: the PNG file, base64.")


class RolloutGroupItem(BaseModel):
    rollouts: list[RolloutItem]
    weights_version: int = Field(description="Version of the weights that all samples of the group were sampled with.")


class RolloutsResponse(BaseModel):
    id: str
    cfg_scales: list[float] = Field(description="Guidance scale of each image token, with interval and schedule.")
    cfg_min_p: float
    temperature: float
    top_k: int
    top_p: float
    groups: list[RolloutGroupItem] = Field(description="One for each prompt or class, in their order.")


@router.post("/rollouts", responses=ERRORS, response_model_exclude_none=True)
async def rollouts(
    body: RolloutsBody, request: Request, pipeline: LoadedPipeline, request_id: RequestId, client: Client
) -> RolloutsResponse:
    """Generates groups of samples with log-probabilities."""
    requests = body.requests()
    for one in requests:
        resolve_condition(one, pipeline.model)
    total, limit = len(requests) * body.n, pipeline.admission.limits.max_in_flight
    if total > limit:
        raise InvalidRequestError(
            f"{len(requests)} groups of {body.n} are {total} images, must be at most {limit} (--max-in-flight)", "n"
        )
    work = pipeline.generate_groups(requests, request_id, client=client, pixels=body.images)
    results = await unless_disconnected(request, work)
    groups = [group_of(one, result, body.images) for one, result in zip(requests, results, strict=True)]
    sampling = groups[0].sampling
    return RolloutsResponse(
        id=request_id,
        cfg_scales=groups[0].cfg_scales.tolist(),
        cfg_min_p=sampling.cfg_min_p,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        groups=[await _group_item(group) for group in groups],
    )


async def _group_item(group: RolloutGroup) -> RolloutGroupItem:
    return RolloutGroupItem(
        rollouts=[await _item(rollout) for rollout in group.rollouts], weights_version=group.weights_version
    )


async def _item(rollout: Rollout) -> RolloutItem:
    names = ("logprobs", "conditional_logprobs", "unconditional_logprobs")
    arrays = {name: getattr(rollout, name) for name in names}
    return RolloutItem(
        seed=rollout.seed,
        codes=rollout.codes.tolist(),
        b64_json=None if rollout.pixels is None else b64(await image_file(rollout.pixels, "png")),
        **{name: None if array is None else array.tolist() for name, array in arrays.items()},
    )


class Message(BaseModel):
    message: str


class Paused(BaseModel):
    is_paused: bool


class SleepStatus(BaseModel):
    status: Literal["sleeping", "awake"]


class Sleeping(BaseModel):
    is_sleeping: bool


class WeightInfo(BaseModel):
    weight_version: str


class InitBody(BaseModel):
    init_info: dict[str, Any] = Field({}, description="Nothing: weights come in files.")


class UpdateInfo(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    path: str = Field(description="A safetensors file with all tensors by their official names; this server reads it.")


class UpdateBody(BaseModel):
    update_info: UpdateInfo


class FinishBody(BaseModel):
    weight_version: str | None = Field(
        None, description="A number that replies carry from now on; by default one more than before."
    )


@router.post("/pause", responses=errors(503))
async def pause(pipeline: LoadedPipeline) -> Message:
    """Waits until nothing is generated; requests that arrive wait until `/resume`."""
    await pipeline.pause()
    return Message(message="paused")


@router.post("/resume", responses=errors(503))
async def resume(pipeline: LoadedPipeline) -> Message:
    """Ends a pause."""
    pipeline.resume()
    return Message(message="resumed")


@router.get("/is_paused", responses=errors(503))
async def is_paused(pipeline: LoadedPipeline) -> Paused:
    return Paused(is_paused=pipeline.is_paused)


@router.post("/sleep", responses=errors(400, 503))
async def sleep(pipeline: LoadedPipeline, level: Annotated[int, Query(ge=1, le=1)] = 1) -> SleepStatus:
    """Waits until nothing is generated, and frees the engine's memory on a GPU; requests wait until `/wake_up`."""
    await pipeline.sleep()
    return SleepStatus(status="sleeping")


@router.post("/wake_up", responses=errors(400, 503))
async def wake_up(pipeline: LoadedPipeline) -> SleepStatus:
    """Ends the engine's sleep."""
    await pipeline.wake_up()
    return SleepStatus(status="awake")


@router.get("/is_sleeping", responses=errors(503))
async def is_sleeping(pipeline: LoadedPipeline) -> Sleeping:
    return Sleeping(is_sleeping=pipeline.is_sleeping)


@router.get("/weight_info", responses=errors(503))
async def weight_info(pipeline: LoadedPipeline) -> WeightInfo:
    """Returns the version of the weights; 0 are those that the server was started with."""
    return WeightInfo(weight_version=str(pipeline.engine.weights_version))


@router.post("/init_weight_transfer_engine", responses=errors(400, 503))
async def init_weight_transfer_engine(pipeline: LoadedPipeline, body: InitBody | None = None) -> Message:
    """Does nothing: weights come in files, and need no connection."""
    if body and body.init_info:
        raise InvalidRequestError(f"init_info has {', '.join(body.init_info)}, must be empty: weights come in files")
    return Message(message="Weight transfer initialized")


@router.post("/shutdown_weight_transfer_engine", responses=errors(503))
async def shutdown_weight_transfer_engine(pipeline: LoadedPipeline) -> Message:
    """Does nothing, as `/init_weight_transfer_engine`."""
    return Message(message="Weight transfer shut down")


@router.post("/start_weight_update", responses=errors(503))
async def start_weight_update(pipeline: LoadedPipeline) -> Message:
    """Begins an update. Images go on with the old weights until it is finished."""
    pipeline.weight_update.start()
    return Message(message="Weight update started")


@router.post("/update_weights", responses=errors(400, 503))
async def update_weights(body: UpdateBody, pipeline: LoadedPipeline) -> Message:
    """Names the file of the new weights, which must not change until the next update."""
    pipeline.weight_update.name_file(body.update_info.path)
    return Message(message="Weights updated")


@router.post("/finish_weight_update", responses=errors(400, 503))
async def finish_weight_update(pipeline: LoadedPipeline, body: FinishBody | None = None) -> Message:
    """Waits until nothing is generated, and replaces the weights."""
    version = await pipeline.weight_update.finish(_version(body.weight_version if body else None))
    return Message(message=f"Weight update finished: version {version}")


def _version(text: str | None) -> int | None:
    if text is None or (text.isascii() and text.isdigit() and int(text) <= MAX_SEED):
        return None if text is None else int(text)
    raise InvalidRequestError(f"weight_version is {text!r}, must be a number", "weight_version")

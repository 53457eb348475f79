"""What a user may ask for, from the command line or over HTTP, with the allowed values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from vllm_llamagen.limits import MAX_INT, MAX_SCALE, MAX_TEMPERATURE

MAX_IMAGES = 10
MAX_SEED = 2**32 - 1


class ImageRequest(BaseModel):
    """Pictures of one prompt or one class. Sampling fields that are left out take the model's defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str | None = Field(None, description="Caption, for text models.")
    class_id: int | None = Field(None, description="Class, for class models.")
    class_label: str | None = Field(None, description="Name of a class, for class models with labels.")
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = Field(1, description="How many pictures.")
    cfg_scale: Annotated[float, Field(ge=0, le=MAX_SCALE, allow_inf_nan=False)] | None = Field(
        None, description="Guidance scale: 1 is the conditional model alone, 0 the unconditional one."
    )
    cfg_interval: Annotated[int, Field(ge=-1, le=MAX_INT)] = Field(
        -1, description="-1 guides every token, k >= 0 guides image tokens 0 to k + 1."
    )
    cfg_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How the scale runs over the image: constant, or rising from 1 to cfg_scale."
    )
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)] | None = Field(
        None, description="0 always takes the most likely code."
    )
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = Field(None, description="0 keeps every code.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        None, description="Picture j is drawn with seed + j. Drawn and told if left out."
    )
    logprobs: bool = Field(False, description="Also return the log-probability of each sampled code.")

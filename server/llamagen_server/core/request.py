"""A request for images: every field with its allowed values, for the command line, HTTP and Python alike."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamagen_server.core.errors import InvalidRequestError
from vllm_llamagen.limits import MAX_INT, MAX_SCALE, MAX_TEMPERATURE

MAX_IMAGES = 10
MAX_SEED = 2**32 - 1
MAX_PROMPT = 4096
"""Characters of a prompt, which is checked before it is cleaned: some rules of that take quadratic time."""
MAX_LABEL = 256
"""Characters of a class label."""

Scale = Annotated[float, Field(ge=0, le=MAX_SCALE, allow_inf_nan=False)]


class ImageRequest(BaseModel):
    """A request for images of one prompt or one class. Omitted sampling fields get the model's defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(max_length=MAX_PROMPT)] | None = Field(
        default=None, description="Prompt, for text models."
    )
    class_id: int | None = Field(default=None, description="Class, for class models.")
    class_label: Annotated[str, Field(max_length=MAX_LABEL)] | None = Field(
        default=None, description="Name of a class, for class models with labels."
    )
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = Field(default=1, description="Number of images.")
    cfg_scale: Scale | None = Field(
        default=None, description="Guidance scale: 1 is the conditional model alone, 0 the unconditional one."
    )
    guidance_scale: Scale | None = Field(default=None, description="An alias of cfg_scale; give only one.")
    cfg_interval: Annotated[int, Field(ge=-1, le=MAX_INT)] = Field(
        default=-1, description="-1 guides every token, k >= 0 guides image tokens 0 to k + 1."
    )
    cfg_schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="The scale over the image: constant, or rising from 1 to cfg_scale."
    )
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)] | None = Field(
        default=None, description="Sampling temperature; 0 always picks the most likely code."
    )
    top_k: Annotated[int, Field(ge=0, le=MAX_INT)] | None = Field(
        default=None, description="Number of most likely codes to sample from; 0 keeps every code."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Probability mass of the codes to sample from; 1 keeps every code."
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = Field(
        default=None, description="Image j uses seed + j. If omitted, a random seed is chosen and returned."
    )
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds until the request fails with 504; the server's default if omitted, and at most its "
        "maximum.",
    )
    logprobs: bool = Field(
        default=False,
        description="Also return log-probabilities: of each code, in the distribution that it is sampled from.",
    )

    @model_validator(mode="after")
    def accept_guidance_scale(self) -> Self:
        """Moves ``guidance_scale``, diffusers' and vllm-omni's name, into ``cfg_scale``."""
        if self.guidance_scale is not None:
            if self.cfg_scale is not None:
                raise InvalidRequestError("guidance_scale and cfg_scale are both given: give one", "guidance_scale")
            self.cfg_scale, self.guidance_scale = self.guidance_scale, None
        return self

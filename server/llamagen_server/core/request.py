"""A request for images: every field with its allowed values, for the command line, HTTP and Python alike."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from llamagen_server.core.errors import InvalidRequestError
from vllm_llamagen.limits import MAX_INT, MAX_SCALE, MAX_TEMPERATURE

MAX_IMAGES = 10
MAX_SEED = 2**63 - 1
MAX_RANDOM_SEED = 2**32 - 1
"""Largest seed that is chosen for a request without one; JavaScript reads integers exactly up to 2**53 only."""
MAX_PROMPT = 4096
"""Characters of a prompt, which is checked before it is cleaned: some rules of that take quadratic time."""
MAX_LABEL = 256
"""Characters of a class label."""


_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def _read_number(value: Any) -> Any:
    """Reads numbers that were sent as text, and integers that were sent as floats; leaves all else to the checks."""
    if isinstance(value, str) and _NUMBER.fullmatch(text := value.strip()) and len(text) <= 40:
        value = float(text) if set(text) & set(".eE") else int(text)
    exact = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if exact else value


Integer = Annotated[int, BeforeValidator(_read_number)]
"""An integer; ``"4"`` and ``4.0`` count as one, as some clients send them."""
Float = Annotated[float, BeforeValidator(_read_number)]
"""A number; ``"7.5"`` counts as one."""


def _read_boolean(value: Any) -> Any:
    """Reads booleans that were sent as text; leaves all else to the checks."""
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


Boolean = Annotated[bool, BeforeValidator(_read_boolean)]
"""A boolean; ``"true"`` and ``"False"`` count as one."""
Scale = Annotated[Float, Field(ge=0, le=MAX_SCALE, allow_inf_nan=False)]


class ImageRequest(BaseModel):
    """A request for images of one prompt or one class. Omitted sampling fields get the model's defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(max_length=MAX_PROMPT)] | None = Field(
        default=None, description="Prompt, for text models; for class models with labels, the name of a class."
    )
    class_id: Integer | None = Field(default=None, description="Class, for class models.")
    class_label: Annotated[str, Field(max_length=MAX_LABEL)] | None = Field(
        default=None,
        description="Name of a class, for class models with labels; case, hyphens and underscores do not matter.",
    )
    n: Annotated[Integer, Field(ge=1, le=MAX_IMAGES)] = Field(default=1, description="Number of images.")
    cfg_scale: Scale | None = Field(
        default=None,
        description="Guidance scale: 1 is the conditional branch alone, 0 the unconditional one, but for the "
        "codes that cfg_min_p excludes.",
    )
    guidance_scale: Scale | None = Field(default=None, description="An alias of cfg_scale; give only one.")
    cfg_interval: Annotated[Integer, Field(ge=-1, le=MAX_INT)] | None = Field(
        default=None, description="-1 guides every token, k >= 0 guides image tokens 0 to k + 1."
    )
    cfg_schedule: Literal["constant", "linear", "cosine"] | None = Field(
        default=None, description="The scale over the image: constant, or rising from 1 to cfg_scale."
    )
    cfg_min_p: Annotated[Float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Excludes codes with a conditional probability below cfg_min_p times that of the most likely "
        "code, at every token and scale; 0 keeps every code.",
    )
    temperature: Annotated[Float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)] | None = Field(
        default=None, description="Sampling temperature; 0 always picks the most likely code."
    )
    top_k: Annotated[Integer, Field(ge=0, le=MAX_INT)] | None = Field(
        default=None, description="Number of most likely codes to sample from; 0 keeps every code."
    )
    top_p: Annotated[Float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Probability mass of the codes to sample from; 1 keeps every code."
    )
    seed: Annotated[Integer, Field(ge=-1, le=MAX_SEED)] | None = Field(
        default=None,
        description="Image j uses seed + j, which begins at 0 again after the largest seed. If omitted or -1, a random "
        "seed is chosen and returned.",
    )
    timeout: Annotated[Float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds until the request fails with 504; the server's default if omitted, and at most its "
        "maximum.",
    )
    logprobs: Boolean = Field(
        default=False,
        description="Also return log-probabilities: of each code, in the distribution that it is sampled from.",
    )
    branch_logprobs: Boolean = Field(
        default=False,
        description="Also return what the conditional and the unconditional branch alone give each code: without "
        "guidance, cfg_min_p, temperature, top-k and top-p.",
    )

    @model_validator(mode="after")
    def accept_guidance_scale(self) -> Self:
        """Moves ``guidance_scale``, diffusers' and vllm-omni's name, into ``cfg_scale``."""
        if self.guidance_scale is not None:
            if self.cfg_scale is not None:
                raise InvalidRequestError("guidance_scale and cfg_scale are both given: give one", "guidance_scale")
            self.cfg_scale, self.guidance_scale = self.guidance_scale, None
        return self

    @model_validator(mode="after")
    def minus_one_is_random(self) -> Self:
        """Removes seed -1, by which other servers' clients ask for a random one."""
        if self.seed == -1:
            self.seed = None
        return self

"""Groups of samples with everything that a policy gradient needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from llamagen_server.core.request import Boolean, ImageRequest, Integer
from llamagen_server.core.results import GenerationResult, Pixels
from llamagen_server.core.sampling import Sampling
from vllm_llamagen.guidance import Guidance

MAX_GROUP = 1024


class RolloutRequest(ImageRequest):
    """A request for a group of ``n`` samples of one prompt or class; sample j has the seed ``seed + j``."""

    n: Annotated[Integer, Field(ge=1, le=MAX_GROUP)] = Field(default=8, description="Samples in the group.")
    logprobs: Boolean = Field(
        default=True, description="Return log-probabilities: of each code, in the distribution that it is sampled from."
    )


@dataclass(frozen=True, eq=False)
class Rollout:
    """A sample. Arrays have one entry for each image token, in raster order."""

    codes: NDArray[np.int64]
    seed: int
    logprobs: NDArray[np.float32] | None
    """Log-probability of each code in the distribution that it was sampled from; 0 of forced tokens."""
    conditional_logprobs: NDArray[np.float32] | None
    """That in the conditional branch alone, without temperature, top-k and top-p; None unless asked for."""
    unconditional_logprobs: NDArray[np.float32] | None
    pixels: Pixels | None
    """[height, width, 3], uint8; None unless asked for."""


@dataclass(frozen=True)
class RolloutGroup:
    """The samples of one request."""

    rollouts: Sequence[Rollout]
    sampling: Sampling
    """Sampling parameters; the seed is that of the first sample."""
    cfg_scales: NDArray[np.float32]
    """Guidance scale of each image token: interval and schedule are in it."""
    weights_version: int
    """Version of the weights that all samples of the group were sampled with."""


def group_of(request: RolloutRequest, result: GenerationResult, pixels: bool) -> RolloutGroup:
    """Returns the group of a request's result."""
    assert result.sampling is not None
    sampling = result.sampling
    guidance = Guidance(sampling.cfg_scale, sampling.cfg_interval, sampling.cfg_schedule)
    rollouts = [
        Rollout(
            codes=np.array(image.codes, np.int64),
            seed=image.seed,
            logprobs=_array(image.logprobs) if request.logprobs else None,
            conditional_logprobs=_array(image.conditional_logprobs) if request.branch_logprobs else None,
            unconditional_logprobs=_array(image.unconditional_logprobs) if request.branch_logprobs else None,
            pixels=image.pixels if pixels else None,
        )
        for image in result.images
    ]
    scales = _array(guidance.scales(len(rollouts[0].codes)))
    return RolloutGroup(rollouts, sampling, scales, result.weights_version)


def _array(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)

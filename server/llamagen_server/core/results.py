"""The results of a request: finished images, previews of unfinished ones, and timings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llamagen_server.core.sampling import Sampling

Pixels = NDArray[np.uint8]
"""An image [height, width, 3], uint8."""


@dataclass(frozen=True, eq=False)
class GeneratedImage:
    """A finished image."""

    index: int
    """Index among the request's images."""
    codes: list[int]
    """Code of each image token, in raster order."""
    pixels: Pixels
    """[height, width, 3]; [0, 0, 3] if the request asked for codes only."""
    seed: int
    """Seed of this image: a request with it and n = 1 generates the image again."""
    logprobs: list[float]
    """Log-probability of each code after the prefix tokens, in the distribution that it is sampled from (after
    guidance, temperature, top-k and top-p); 0 for forced tokens. Empty if the request did not ask for it."""
    conditional_logprobs: list[float] = field(default_factory=list)
    """Log-probability of each code after the prefix tokens in the conditional branch alone, without guidance,
    temperature, top-k and top-p; of forced tokens too. Empty if the request did not ask for it."""
    unconditional_logprobs: list[float] = field(default_factory=list)
    """The same in the unconditional branch."""


@dataclass(frozen=True, eq=False)
class Preview:
    """An unfinished image. Its later tokens are filled in (`llamagen_server.pipeline.previews.fill`)."""

    index: int
    """Index among the request's images."""
    number: int
    """0 for the first preview of this image."""
    pixels: Pixels


@dataclass(frozen=True)
class Accepted:
    """The request fits the model and has its places; its images follow."""


OnEvent = Callable[[Accepted | Preview | GeneratedImage], None]
"""Called with everything that happens to a request, in the event loop."""


@dataclass
class Timings:
    """Milliseconds by stage. Engine and decode are the maximum over the images; engine includes decoding previews."""

    text_ms: float = 0.0
    engine_ms: float = 0.0
    decode_ms: float = 0.0
    file_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class GenerationResult:
    """All images of one request."""

    images: list[GeneratedImage]
    condition_tokens: int
    """Tokens of the prompt; 1 for a class."""
    input_image_tokens: int = 0
    """Tokens of the image that is inpainted; 0 if there is none, or if nothing of it is kept."""
    timings: Timings = field(default_factory=Timings)
    sampling: Sampling | None = None
    """Sampling parameters of the images; the seed is that of the first."""
    weights_version: int = 0
    """Version of the weights that the images are sampled with: 0 are those of the model directory."""

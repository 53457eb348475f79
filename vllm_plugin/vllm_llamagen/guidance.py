"""Classifier-free guidance per request: what a request may ask for, and the arithmetic.

A request says how it is guided in ``SamplingParams.extra_args``:

- ``cfg_scale``: number from 0 to 1000. The logits are ``u + cfg_scale * (c - u)`` of the unconditional and the
  conditional stream: 1 is the conditional model alone, 0 the unconditional one. (The official code knows no scale
  below 1.)
- ``cfg_interval``: integer >= -1. -1 guides every token. ``k >= 0`` guides the first token and decode steps 0 to k,
  that is image tokens 0 to k + 1; the rest are conditional only (official ``generate`` and ``decode_n_tokens``).
- ``cfg_schedule``: how the scale runs over the image. ``constant``; ``linear`` from 1 at the first token to
  ``cfg_scale`` at the last; ``cosine`` likewise along half a cosine wave. (Rising schedules: arXiv 2404.13040.)
- ``first_token``: index of the image token that is sampled first, where the prompt already holds the codes before it.
- ``forced_codes``: codes of the image in raster order, -1 where the model is free. A forced one is taken whatever its
  logit, and has log-probability 0.

Without ``cfg_scale`` a request has the default of the model directory's ``generation_config.json``, else 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vllm_llamagen.limits import MAX_INT, MAX_SCALE

if TYPE_CHECKING:
    from vllm import SamplingParams

SCHEDULES = ("constant", "linear", "cosine")


class Guidance(NamedTuple):
    """How one request is guided."""

    scale: float = 1.0
    interval: int = -1
    schedule: str = "constant"
    first_token: int = 0
    forced_codes: tuple[int, ...] = ()

    @classmethod
    def from_params(cls, params: SamplingParams, default: Guidance) -> Guidance:
        """Reads and checks ``extra_args``.

        Raises:
            ValueError: a value is not allowed; the message names it.
        """
        args = params.extra_args or {}
        scale, interval = args.get("cfg_scale", default.scale), args.get("cfg_interval", default.interval)
        schedule, first_token = args.get("cfg_schedule", "constant"), args.get("first_token", 0)
        forced = args.get("forced_codes", ())
        if not _is_number(scale, int | float) or not 0 <= scale <= MAX_SCALE:
            raise ValueError(f"cfg_scale is {scale!r}, must be a number from 0 to {MAX_SCALE}")
        if not _is_number(interval, int) or not -1 <= interval <= MAX_INT:
            raise ValueError(f"cfg_interval is {interval!r}, must be an integer >= -1 (-1 guides every token)")
        if schedule not in SCHEDULES:
            raise ValueError(f"cfg_schedule is {schedule!r}, must be one of {', '.join(SCHEDULES)}")
        if not _is_number(first_token, int) or not 0 <= first_token <= MAX_INT:
            raise ValueError(f"first_token is {first_token!r}, must be an integer >= 0")
        if not isinstance(forced, list | tuple) or not all(
            _is_number(code, int) and -1 <= code <= MAX_INT for code in forced
        ):
            raise ValueError("forced_codes must be a list of codes, with -1 where the model is free")
        return cls(float(scale), interval, schedule, first_token, tuple(forced))

    def scales(self, num_tokens: int) -> list[float]:
        """The scale for each of an image's tokens."""
        guided = num_tokens if self.interval < 0 else min(num_tokens, self.interval + 2)
        if self.schedule == "constant":
            return [self.scale] * guided + [1.0] * (num_tokens - guided)
        shares = (token / max(1, num_tokens - 1) for token in range(guided))
        if self.schedule == "cosine":
            shares = ((1 - math.cos(math.pi * share)) / 2 for share in shares)
        return [1 + (self.scale - 1) * share for share in shares] + [1.0] * (num_tokens - guided)

    def forced(self, num_tokens: int) -> list[int]:
        """The forced code of each of an image's tokens, -1 where the model is free."""
        return [*self.forced_codes, *[-1] * num_tokens][:num_tokens]


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


NEUTRAL_PARAMS: dict[str, Any] = {
    "allowed_token_ids": None,
    "bad_words": [],
    "frequency_penalty": 0.0,
    "logit_bias": None,
    "logprob_token_ids": None,
    "min_tokens": 0,
    "presence_penalty": 0.0,
    "prompt_logprob_token_ids": None,
    "prompt_logprobs": None,
    "repetition_penalty": 1.0,
    "structured_outputs": None,
}
"""Sampling parameters that vLLM applies before the streams are mixed, or that make no sense for codes: refused."""


def check_params(params: SamplingParams) -> None:
    """Checks a request at admission.

    Raises:
        ValueError: guidance is malformed, or the request sets one of `NEUTRAL_PARAMS`.
    """
    Guidance.from_params(params, Guidance())
    for name, neutral in NEUTRAL_PARAMS.items():
        if (value := getattr(params, name)) not in (neutral, None):
            raise ValueError(f"{name} is {value!r}; LlamaGen does not support it, leave it out")


def mix(logits: Tensor, scale: Tensor, vocab_size: int) -> Tensor:
    """Mixes the two streams of every row.

    Args:
        logits: [n, 2 * codebook_size], float32, conditional stream first.
        scale: [n], float32.
        vocab_size: width of the result; the ids behind the codes are conditions and can never be sampled.

    Returns:
        [n, vocab_size], float32.
    """
    conditional, unconditional = logits.float().chunk(2, dim=-1)
    return pad_vocab(torch.lerp(unconditional, conditional, scale[:, None]), vocab_size)


def pad_vocab(logits: Tensor, vocab_size: int) -> Tensor:
    return torch.nn.functional.pad(logits, (0, vocab_size - logits.shape[-1]), value=-math.inf)


def force(logits: Tensor, codes: Tensor) -> Tensor:
    """Leaves only one code in rows that have a forced one.

    Args:
        logits: [n, vocab_size].
        codes: [n], int64; -1 leaves a row as it is.
    """
    columns = torch.arange(logits.shape[1], device=logits.device)
    excluded = (codes[:, None] >= 0) & (columns != codes[:, None])
    return logits.masked_fill(excluded, -math.inf)

"""Classifier-free guidance per request: the parameters, their checks, and the arithmetic that both model runners share.

A request sets its guidance in ``SamplingParams.extra_args``:

- ``cfg_scale``: number from 0 to 1000. The logits are ``u + cfg_scale * (c - u)`` of the unconditional and the
  conditional branch: 1 is the conditional branch alone, 0 the unconditional one. The official code guides above 1 only.
- ``cfg_interval``: integer >= -1. -1 guides every token. ``k >= 0`` guides the first token and decode steps 0 to k,
  that is image tokens 0 to k + 1; later tokens have the scale 1 (official ``generate`` and ``decode_n_tokens``).
- ``cfg_schedule``: the scale over the image. ``constant``; ``linear`` from 1 at the first token to ``cfg_scale`` at the
  last; ``cosine``, the same along half a cosine wave. (Rising schedules: arXiv 2404.13040.)
- ``cfg_min_p``: number from 0 to 1. Codes whose conditional probability is below ``cfg_min_p`` times that of the most
  likely code are excluded before mixing, at every token and scale; 0, the official behaviour, keeps every code. Where
  both branches give a code almost no probability, their ratio is noise, which a large scale raises to a power
  (plausibility constraint of contrastive decoding, arXiv 2210.15097).
- ``start_index``: index of the first sampled image token. The prompt holds the tokens before it (the prefix tokens).
- ``forced_tokens``: codes of the image tokens in raster order, -1 where the model samples. A forced token is taken
  whatever its logit, and has log-probability 0.
- ``branch_logprobs``: true returns, with each code, what the conditional and the unconditional branch alone give it
  (`vllm_llamagen.branch_logprobs`).

What a request leaves out of the first four is the model's, from ``generation_config.json``, else 1, -1, ``constant``
and 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vllm_llamagen.limits import MAX_INT, MAX_SCALE, SCHEDULES

if TYPE_CHECKING:
    from vllm import SamplingParams

    from vllm_llamagen.vllm_compat import VllmConfig


MODEL_FIELDS = ("cfg_scale", "cfg_interval", "cfg_schedule", "cfg_min_p")
"""Fields that a model directory's ``generation_config.json`` can have."""


class Guidance(NamedTuple):
    """The guidance of one request. The module's docstring explains the fields."""

    scale: float = 1.0
    interval: int = -1
    schedule: str = "constant"
    start_index: int = 0
    forced_tokens: tuple[int, ...] = ()
    branch_logprobs: bool = False
    min_p: float = 0.0

    @classmethod
    def from_params(cls, params: SamplingParams, default: Guidance) -> Guidance:
        """Reads and checks ``extra_args``.

        Raises:
            ValueError: a value is not allowed; the message names it.
        """
        return cls.from_values(params.extra_args or {}, default)

    @classmethod
    def from_values(cls, args: Mapping[str, Any], default: Guidance) -> Guidance:
        """Reads and checks the values of ``extra_args`` or of a ``generation_config.json``.

        Raises:
            ValueError: a value is not allowed; the message names it.
        """
        scale, interval = args.get("cfg_scale", default.scale), args.get("cfg_interval", default.interval)
        schedule, start_index = args.get("cfg_schedule", default.schedule), args.get("start_index", 0)
        min_p = args.get("cfg_min_p", default.min_p)
        forced, branch_logprobs = args.get("forced_tokens", ()), args.get("branch_logprobs", False)
        if not _is_number(scale, int | float) or not 0 <= scale <= MAX_SCALE:
            raise ValueError(f"cfg_scale is {scale!r}, must be a number from 0 to {MAX_SCALE}")
        if not _is_number(interval, int) or not -1 <= interval <= MAX_INT:
            raise ValueError(f"cfg_interval is {interval!r}, must be an integer >= -1 (-1 guides every token)")
        if schedule not in SCHEDULES:
            raise ValueError(f"cfg_schedule is {schedule!r}, must be one of {', '.join(SCHEDULES)}")
        if not _is_number(start_index, int) or not 0 <= start_index <= MAX_INT:
            raise ValueError(f"start_index is {start_index!r}, must be an integer >= 0")
        if not isinstance(forced, list | tuple) or not all(
            _is_number(code, int) and -1 <= code <= MAX_INT for code in forced
        ):
            raise ValueError("forced_tokens must be a list of codes, with -1 where the model samples")
        if not _is_number(min_p, int | float) or not 0 <= min_p <= 1:
            raise ValueError(f"cfg_min_p is {min_p!r}, must be a number from 0 to 1")
        if not isinstance(branch_logprobs, bool):
            raise ValueError(f"branch_logprobs is {branch_logprobs!r}, must be true or false")
        return cls(float(scale), interval, schedule, start_index, tuple(forced), branch_logprobs, float(min_p))

    def scales(self, num_tokens: int) -> list[float]:
        """Returns the scale of each image token."""
        guided = num_tokens if self.interval < 0 else min(num_tokens, self.interval + 2)
        if self.schedule == "constant":
            return [self.scale] * guided + [1.0] * (num_tokens - guided)
        shares = (token / max(1, num_tokens - 1) for token in range(guided))
        if self.schedule == "cosine":
            shares = ((1 - math.cos(math.pi * share)) / 2 for share in shares)
        return [1 + (self.scale - 1) * share for share in shares] + [1.0] * (num_tokens - guided)

    def forced(self, num_tokens: int, codebook_size: int) -> list[int]:
        """Returns the forced code of each image token, -1 where the model samples.

        A value outside the codebook counts as -1: admission cannot see the codebook, and no request may end the engine.
        """
        known = [code if code < codebook_size else -1 for code in self.forced_tokens[:num_tokens]]
        return known + [-1] * (num_tokens - len(known))


def default_guidance(vllm_config: VllmConfig) -> Guidance:
    """Returns the guidance of requests that set none: the model directory's.

    Raises:
        ValueError: its ``generation_config.json`` has a value that is not allowed.
    """
    stored = vllm_config.model_config.try_get_generation_config()
    try:
        guidance = Guidance.from_values({name: stored[name] for name in MODEL_FIELDS if name in stored}, Guidance())
    except ValueError as error:
        raise ValueError(f"generation_config.json: {error}") from None
    has_guidance = vllm_config.model_config.hf_config.cfg_branches == 2
    return guidance if has_guidance else guidance._replace(scale=1.0)


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def mix_branches(rows: Tensor, scale: Tensor) -> Tensor:
    """Mixes the two branches of every row in float32: their logits, or their last hidden states.

    The head is linear and has no bias, so both give the same logits.

    Args:
        rows: [n, 2 * width], any float dtype, conditional branch first.
        scale: [n], float32.

    Returns:
        [n, width], float32.
    """
    conditional, unconditional = rows.float().chunk(2, dim=-1)
    return torch.lerp(unconditional, conditional, scale[:, None])


def exclude_implausible(mixed: Tensor, conditional: Tensor, min_p: Tensor) -> Tensor:
    """Excludes codes that the conditional branch gives less than ``min_p`` times the most likely one's probability.

    Args:
        mixed: logits after mixing, [n, codebook_size].
        conditional: logits of the conditional branch, [n, codebook_size], float32.
        min_p: [n], float32; 0 excludes none.

    Returns:
        [n, codebook_size]; -inf where a code is excluded.
    """
    least = conditional.amax(dim=1, keepdim=True) + min_p.log()[:, None]
    return mixed.masked_fill(conditional < least, -math.inf)


def pad_vocab(logits: Tensor, vocab_size: int) -> Tensor:
    """Pads logits [n, codebook_size] with -inf to [n, vocab_size]: the ids after the codebook are never sampled."""
    return torch.nn.functional.pad(logits, (0, vocab_size - logits.shape[-1]), value=-math.inf)


def force_tokens(logits: Tensor, codes: Tensor) -> Tensor:
    """Leaves a single code in every row whose token is forced.

    Args:
        logits: [n, vocab_size].
        codes: [n], int64; -1 leaves a row as it is.

    Returns:
        [n, vocab_size]; all but the forced code are -inf.
    """
    is_forced = codes[:, None] >= 0
    is_code = torch.arange(logits.shape[1], device=logits.device) == codes[:, None]
    logits = logits.masked_fill(is_code & logits.isneginf(), 0.0)  # a code that was excluded
    return logits.masked_fill(is_forced & ~is_code, -math.inf)

"""Checks of a converted model: what its engine generates, and what the eager baseline computes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from llamagen_server.bench.eager import EagerGPT
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.results import Pixels
from llamagen_server.core.sampling import Sampling
from llamagen_server.engine.arguments import default_flags
from llamagen_server.engine.interface import EngineRequest
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.build import build_pipeline, open_model
from llamagen_server.pipeline.pipeline import Pipeline

CLASS_ID = 207
PROMPT = "a large red circle on the left"


@dataclass(frozen=True)
class Served:
    """Results of an engine."""

    start_s: float
    generated: str
    """Image tokens that were generated."""
    tokens_per_s: float
    greedy: list[int]
    """The most likely first codes."""


async def serve(directory: Path, dtype: str, tokens: int, whole: bool) -> Served:
    """Starts the engine and its stages, and checks what they generate.

    Args:
        tokens: first image tokens that are generated again with the same seed and with another.
        whole: whether a whole image is generated too, which is then timed; else as many last tokens after a prefix of
            random codes. The pixels are decoded either way.
    """
    model = open_model(directory)
    start = time.perf_counter()
    flags = default_flags(enforce_eager=True, max_num_seqs=1, dtype=dtype)
    pipeline = build_pipeline(model, flags, own_process_group=True)
    start_s = time.perf_counter() - start
    try:
        codes = await first_codes(pipeline, tokens, seed=0)
        start = time.perf_counter()
        again = await first_codes(pipeline, tokens, seed=0)
        seconds = time.perf_counter() - start
        check(codes == again, f"seed 0 gave {codes}, then {again}")
        check(codes != await first_codes(pipeline, tokens, seed=1), "seeds 0 and 1 gave the same codes")
        check(len({*codes}) > 1 and 0 <= min(codes) <= max(codes) < model.config.codebook_size, f"codes {codes}")
        greedy = await first_codes(pipeline, tokens, seed=0, temperature=0)
        if whole:
            seconds = await whole_image(pipeline, codes)
            count = model.config.num_image_tokens
            return Served(start_s, f"all {count}", count / seconds, greedy)
        await last_codes(pipeline, tokens)
        return Served(start_s, f"first and last {tokens}", tokens / seconds, greedy)
    finally:
        pipeline.shutdown()


async def first_codes(pipeline: Pipeline, tokens: int, seed: int, temperature: float = 1.0) -> list[int]:
    """Returns the first codes of an image."""
    request = await engine_request(pipeline, seed=seed, temperature=temperature)
    async with aclosing(pipeline.engine.generate(request)) as outputs:
        async for output in outputs:
            if len(output.codes) >= tokens:
                return output.codes[:tokens]
    raise RuntimeError(f"an image ended before its {tokens} first tokens")


async def last_codes(pipeline: Pipeline, tokens: int) -> None:
    """Generates the last codes of an image and decodes it."""
    config = pipeline.model.config
    generator = torch.Generator().manual_seed(0)
    prefix = torch.randint(config.codebook_size, (config.num_image_tokens - tokens,), generator=generator).tolist()
    request = replace(await engine_request(pipeline, seed=0), prefix_tokens=prefix)
    async with aclosing(pipeline.engine.generate(request)) as outputs:
        codes = [output.codes async for output in outputs][-1]
    check(codes[: len(prefix)] == prefix, "the prefix changed")
    check_image(pipeline, codes, await pipeline.decode_image(codes))


async def engine_request(pipeline: Pipeline, **changes: float) -> EngineRequest:
    """Returns a request for one image with the model's defaults and these sampling parameters."""
    condition = await pipeline.text(PROMPT) if pipeline.text else CLASS_ID
    values = asdict(pipeline.model.defaults) | changes
    return EngineRequest(f"request-{time.monotonic_ns()}", condition, Sampling(**values), update_every=1)


async def whole_image(pipeline: Pipeline, first: list[int]) -> float:
    """Generates an image that starts with these codes of seed 0, and returns the seconds without decoding."""
    condition = {"prompt": PROMPT} if pipeline.text else {"class_id": CLASS_ID}
    result = await pipeline.generate(ImageRequest(seed=0, **condition), "whole")
    [image] = result.images
    check(image.codes[: len(first)] == first, "the image starts with other codes than before")
    check_image(pipeline, image.codes, image.pixels)
    return result.timings.engine_ms / 1000


def check_image(pipeline: Pipeline, codes: list[int], pixels: Pixels) -> None:
    config, side = pipeline.model.config, pipeline.model.image_size
    check(len(codes) == config.num_image_tokens, f"the image has {len(codes)} codes")
    check(0 <= min(codes) <= max(codes) < config.codebook_size, "a code is outside the codebook")
    check(pixels.shape == (side, side, 3) and pixels.std() > 0, f"pixels of shape {pixels.shape}, or of one colour")


def eager_codes(model: ModelDir, tokens: int) -> list[int]:
    """Returns the most likely first codes by the eager baseline in float32, with the converted weights."""
    eager = EagerGPT(model.config, images=1).requires_grad_(False)
    eager.load_state_dict(eager_names(load_file(model.path / "model.safetensors")))
    scale = model.defaults.cfg_scale
    return eager.generate(torch.tensor([CLASS_ID]), scale, top_k=0, temperature=0, tokens=tokens)[0].tolist()


def eager_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames official tensors of a class model to those of the baseline."""
    return {
        name.replace("cls_embedding.embedding_table", "cls_embedding").replace("feed_forward.", ""): tensor
        for name, tensor in weights.items()
    }


def check(holds: bool, problem: str) -> None:
    if not holds:
        raise RuntimeError(problem)

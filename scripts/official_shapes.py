"""Converts and serves every official model with random weights, and prints a Markdown table.

    make shapes-test
    make shapes-test ARGS='--only c2i-B-256 vq-ds8-c2i'

Each checkpoint has the official format, names, shapes and dtype. It is converted, an engine of its own generates from
it, and its files are removed before the next one is written. The largest takes 13 GB below the temporary folder.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import psutil
import torch
from safetensors.torch import load_file
from tests.helpers.encoder_files import write_t5
from torch import Tensor

from llamagen_server.bench.eager import EagerGPT
from llamagen_server.convert.checkpoint import open_checkpoint
from llamagen_server.convert.convert import convert
from llamagen_server.convert.options import ConvertOptions
from llamagen_server.convert.vq import read_vq
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.results import Pixels
from llamagen_server.core.sampling import Sampling
from llamagen_server.engine.arguments import default_flags
from llamagen_server.engine.environment import set_process_defaults
from llamagen_server.engine.interface import EngineRequest
from llamagen_server.hub.catalogue import MODELS, TOKENIZERS, NamedModel, NamedTokenizer
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.build import build_pipeline, open_model
from llamagen_server.pipeline.pipeline import Pipeline
from llamagen_tokenizer import CONFIGS, VQConfig, VQModel, from_uint8, load_vq, save_vq, to_uint8
from llamagen_tokenizer.checkpoint import STATISTICS
from llamagen_tokenizer.state_dict import VQ
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.weights import official_shapes

GIB = 2**30
FLOAT32_PARAMETERS = 2e9
"""Language models with more weights are served in bfloat16: 3B would take 12 GiB in float32."""
CLASS_ID = 207
PROMPT = "a large red circle on the left"
STD = 0.02
"""Standard deviation of the weights, that of the official initialisation."""

COLUMNS = (
    "model", "parameters, M", "served in", "directory, GiB", "conversion, s", "start, s", "image tokens", "tokens/s",
    "memory of the conversion, GiB", "memory of the server, GiB", "greedy tokens equal to eager",
)  # fmt: skip


def main() -> int:
    """Returns the exit status: 0 if every chosen shape passed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.official_shapes", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*MODELS, "vq-ds8-c2i"], help="names of shapes (default: all)")
    parser.add_argument("--tokens", type=int, default=16, help="image tokens of each comparison (default: 16)")
    parser.add_argument(
        "--whole", nargs="*", default=["B", "L"], help="sizes that generate whole images (default: B L)"
    )
    args = parser.parse_args()
    set_process_defaults()
    chosen = args.only or [*MODELS, "vq-ds8-c2i"]
    rows, failed = [], []
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="official-shapes-") as folder:
            try:
                if name in TOKENIZERS:
                    print(run_tokenizer(TOKENIZERS[name], Path(folder)), flush=True)
                else:
                    whole = MODELS[name].size in args.whole
                    rows.append([name, *run_model(MODELS[name], Path(folder), args.tokens, whole)])
                    print(f"| {' | '.join(rows[-1])} |", flush=True)
            except Exception as error:
                failed.append(name)
                print(f"{name}: {type(error).__name__}: {error}", flush=True)
    print("\n".join(f"| {' | '.join(line)} |" for line in [COLUMNS, ["---"] * len(COLUMNS), *rows]))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def random_gpt(config: LlamaGenConfig, seed: int = 0) -> dict[str, Tensor]:
    """Returns an official state dict in bfloat16: normal numbers, around 1 in the norms."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty(shape, dtype=torch.bfloat16).normal_(float(len(shape) == 1), STD, generator=generator)
        for name, shape in official_shapes(config).items()
    }


def random_vq(config: VQConfig, seed: int = 0) -> dict[str, Tensor]:
    """Returns an official state dict of an image tokenizer in float32, with the counts that training leaves in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = VQModel(config).state_dict()
    return {**weights, STATISTICS: torch.zeros(65536)}


def run_tokenizer(tokenizer: NamedTokenizer, folder: Path) -> str:
    """Converts an image tokenizer alone, then encodes and decodes an image of 256 pixels. Returns a line of figures."""
    file = folder / tokenizer.file.name
    torch.save({"model": random_vq(CONFIGS[tokenizer.config])}, file)
    start = time.perf_counter()
    save_vq(read_vq(open_checkpoint(file, VQ, None), None), folder / "vq")
    converted = time.perf_counter()
    vq = load_vq(folder / "vq")
    check(vq.config == CONFIGS[tokenizer.config], f"converted as {vq.config}")
    pixels = torch.randint(256, (1, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    codes = vq.encode(from_uint8(pixels))
    side = 256 // tokenizer.downsample
    check(codes.shape == (1, side, side), f"codes have shape {list(codes.shape)}")
    check(torch.equal(codes, vq.encode(from_uint8(pixels))), "encoding an image again gave other codes")
    decoded = vq.decode(codes)
    check(bool(decoded.isfinite().all()) and to_uint8(decoded).shape == pixels.shape, "the decoded image is wrong")
    seconds = time.perf_counter() - converted
    return (
        f"{tokenizer.file.name}: {tokenizer.parameters / 1e6:.0f} M parameters, conversion {converted - start:.1f} s, "
        f"{side} x {side} codes, {len(codes.unique())} different; encoding twice and decoding took {seconds:.1f} s"
    )


def run_model(model: NamedModel, folder: Path, tokens: int, whole: bool) -> list[str]:
    """Converts and serves a model. Returns its row of the table without its name."""
    options = write_checkpoints(model, folder)
    start = time.perf_counter()
    with PeakMemory() as conversion:
        converted = convert(options)
    seconds = time.perf_counter() - start
    check(converted.config.grid_size == model.config.grid_size, f"converted with grid {converted.config.grid_size}")
    dtype = "float32" if model.parameters < FLOAT32_PARAMETERS else "bfloat16"
    with PeakMemory() as serving:
        served = asyncio.run(serve(converted.path, dtype, tokens, whole))
    equal = "-"
    if model.condition == "class" and dtype == "float32":
        expected = eager_codes(converted, tokens)
        check(served.greedy == expected, f"greedy codes {served.greedy}, the eager baseline's {expected}")
        equal = f"{tokens} of {tokens}"
    size = sum(file.stat().st_size for file in converted.path.rglob("*") if file.is_file())
    return [
        f"{model.parameters / 1e6:.0f}", dtype, f"{size / GIB:.2f}", f"{seconds:.1f}", f"{served.start_s:.0f}",
        served.generated, f"{served.tokens_per_s:.1f}", f"{conversion.peak / GIB:.1f}",
        f"{serving.peak / GIB:.1f}", equal,
    ]  # fmt: skip


def write_checkpoints(model: NamedModel, folder: Path) -> ConvertOptions:
    """Writes both checkpoints under their official names, for a text model also a text encoder of one layer."""
    gpt, vq = folder / model.file.name, folder / TOKENIZERS[model.tokenizer].file.name
    torch.save({"model": random_gpt(model.config)}, gpt)
    torch.save({"model": random_vq(CONFIGS[TOKENIZERS[model.tokenizer].config])}, vq)
    encoder = folder / "t5" if model.condition == "text" else None
    if encoder:
        write_t5(encoder, width=model.config.caption_dim, layers=1)
    return ConvertOptions(gpt_ckpt=gpt, vq_ckpt=vq, text_encoder=encoder, out=folder / "model")


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
    pipeline = build_pipeline(model, default_flags(enforce_eager=True, max_num_seqs=1, dtype=dtype))
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
    values = asdict(pipeline.model.defaults) | {"cfg_interval": -1, "cfg_schedule": "constant"} | changes
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


class PeakMemory:
    """The largest resident memory of this process and its children while the context is open, in bytes.

    Memory-mapped pages of files count too, as do pages that two processes share, twice.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # it ended since
            self.peak = max(self.peak, total)
            if self._done.wait(0.1):
                return


def check(holds: bool, problem: str) -> None:
    if not holds:
        raise RuntimeError(problem)


if __name__ == "__main__":
    raise SystemExit(main())

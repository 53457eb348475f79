"""Converts and serves every official model with random weights, and prints a Markdown table.

    make shapes-test
    make shapes-test ARGS='--only c2i-B-256 vq-ds8-c2i'

Each checkpoint has the official format, names, shapes and dtype. It is converted, an engine of its own generates from
it, and its files are removed before the next one is written. The largest takes 13 GB below the temporary folder.
The memory of a conversion and of a server is the peak of all processes, this one among them.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
import time
from pathlib import Path

import torch
from scripts.official_shapes.checkpoints import random_vq, write_checkpoints
from scripts.official_shapes.checks import check, eager_codes, serve
from scripts.official_shapes.memory import PeakMemory

from llamagen_server.convert.checkpoint import open_checkpoint
from llamagen_server.convert.convert import convert
from llamagen_server.convert.vq import read_vq
from llamagen_server.engine.environment import set_process_defaults
from llamagen_server.hub.catalogue import MODELS, TOKENIZERS, NamedModel, NamedTokenizer
from llamagen_tokenizer import CONFIGS, from_uint8, load_vq, save_vq, to_uint8
from llamagen_tokenizer.state_dict import VQ

GIB = 2**30
FLOAT32_PARAMETERS = 2e9
"""Language models with more weights are served in bfloat16 by default: 3B takes 12 GiB in float32."""

COLUMNS = (
    "model", "parameters, M", "served in", "directory, GiB", "conversion, s", "start, s", "image tokens", "tokens/s",
    "conversion, GiB", "server, GiB", "greedy as eager",
)  # fmt: skip


def main() -> int:
    """Returns the exit status: 0 if every chosen shape passed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.official_shapes", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*MODELS, "vq-ds8-c2i"], help="names of shapes (default: all)")
    parser.add_argument("--tokens", type=int, default=8, help="image tokens of each comparison (default: 8)")
    parser.add_argument("--whole", nargs="*", default=["B"], help="sizes that generate whole images (default: B)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: float32, but bfloat16 for 3B")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the engine and removes the files too
    set_process_defaults()
    chosen = args.only or [*MODELS, "vq-ds8-c2i"]
    rows, failed = [], []
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="official-shapes-") as folder:
            try:
                if name in TOKENIZERS:
                    print(run_tokenizer(TOKENIZERS[name], Path(folder)), flush=True)
                else:
                    rows.append([name, *run_model(MODELS[name], Path(folder), args)])
                    print(f"| {' | '.join(rows[-1])} |", flush=True)
            except Exception as error:
                failed.append(name)
                print(f"{name}: {type(error).__name__}: {error}", flush=True)
    print("\n".join(f"| {' | '.join(line)} |" for line in [COLUMNS, ["---"] * len(COLUMNS), *rows]))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


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


def run_model(model: NamedModel, folder: Path, args: argparse.Namespace) -> list[str]:
    """Converts and serves a model. Returns its row of the table without its name."""
    options = write_checkpoints(model, folder)
    start = time.perf_counter()
    with PeakMemory() as conversion:
        converted = convert(options)
    seconds = time.perf_counter() - start
    check(converted.config.grid_size == model.config.grid_size, f"converted with grid {converted.config.grid_size}")
    dtype = args.dtype or ("float32" if model.parameters < FLOAT32_PARAMETERS else "bfloat16")
    with PeakMemory() as serving:
        served = asyncio.run(serve(converted.path, dtype, args.tokens, model.size in args.whole))
    equal = "-"
    if model.condition == "class" and dtype == "float32":
        expected = eager_codes(converted, args.tokens)
        check(served.greedy == expected, f"greedy codes {served.greedy}, the eager baseline's {expected}")
        equal = f"{args.tokens} of {args.tokens}"
    size = sum(file.stat().st_size for file in converted.path.rglob("*") if file.is_file())
    return [
        f"{model.parameters / 1e6:.0f}", dtype, f"{size / GIB:.2f}", f"{seconds:.1f}", f"{served.start_s:.0f}",
        served.generated, f"{served.tokens_per_s:.1f}", f"{conversion.peak / GIB:.1f}",
        f"{serving.peak / GIB:.1f}", equal,
    ]  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())

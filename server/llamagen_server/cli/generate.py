"""``llamagen generate``: pictures from the command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from llamagen_server.core.errors import describe
from llamagen_server.core.request import ImageRequest
from llamagen_server.image_files.files import OutputFormat, contact_sheet, encode_image

if TYPE_CHECKING:
    from llamagen_server.pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)

FORMATS: dict[str, OutputFormat] = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", metavar="MODEL | PROMPT", nargs="*", help="a model directory (default: the demo model), then captions"
    )
    parser.add_argument("--class-id", type=int, action="append", help="class, for a class model; may be repeated")
    parser.add_argument("--cfg-scale", type=float, help="guidance scale (default: the model's)")
    parser.add_argument(
        "--cfg-interval", type=int, metavar="K", default=-1, help="guide only image tokens 0 to K + 1 (default: all)"
    )
    parser.add_argument("--cfg-schedule", default="constant", help="constant, linear or cosine (default: constant)")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: the model's)")
    parser.add_argument("--top-k", type=int, help="0 keeps every code (default: the model's)")
    parser.add_argument("--top-p", type=float, help="(default: the model's)")
    parser.add_argument("--seed", type=int, help="picture j is drawn with seed + j (default: random)")
    parser.add_argument("-n", type=int, default=1, help="pictures per prompt or class (default: %(default)s)")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="an image file (several pictures become one sheet) or a folder"
    )


def run(args: argparse.Namespace) -> None:
    """Makes the pictures and writes them.

    Raises:
        ValueError: an argument or the model is wrong.
    """
    from llamagen_server.engine import arguments as vllm_args
    from llamagen_server.pipeline import build as loading
    from llamagen_server.pipeline.condition import resolve_condition

    model_path, prompts = split_words(args.words)
    requests = build_requests(args, prompts)
    check_out(args.out)
    model = loading.open_model(model_path)
    for request in requests:
        resolve_condition(request, model)
    flags = vllm_args.default_flags(enforce_eager=True, max_num_seqs=min(32, sum(request.n for request in requests)))
    asyncio.run(_generate(loading.load_pipeline(model, flags), requests, args.out))


def split_words(words: list[str]) -> tuple[str | None, list[str]]:
    """The first word is the model if it is a folder or is written like a path."""
    if words and (os.path.isdir(words[0]) or (os.sep in words[0] and not any(c.isspace() for c in words[0]))):
        return words[0], words[1:]
    return None, words


def build_requests(args: argparse.Namespace, prompts: list[str]) -> list[ImageRequest]:
    if prompts and args.class_id:
        raise ValueError("give prompts or --class-id, not both")
    conditions: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts] or [
        {"class_id": c} for c in args.class_id or ()
    ]
    if not conditions:
        raise ValueError("nothing to draw: give a prompt (text models) or --class-id (class models)")
    names = ("n", "cfg_scale", "cfg_interval", "cfg_schedule", "temperature", "top_k", "top_p", "seed")
    options = {name: getattr(args, name) for name in names}
    try:
        return [ImageRequest(**condition, **options) for condition in conditions]
    except ValidationError as error:
        raise ValueError(describe(error.errors()[0])[0]) from None


def check_out(out: Path) -> None:
    """Before the model is loaded, lest the pictures are lost."""
    if out.suffix and not out.is_dir() and out.suffix.lower() not in FORMATS:
        raise ValueError(f"--out {out}: unknown image format {out.suffix}, must be one of {', '.join(FORMATS)}")
    folder = out.parent if out.suffix else out
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--out {out}: {folder} cannot be written to")


async def _generate(pipeline: Pipeline, requests: list[ImageRequest], out: Path) -> None:
    from llamagen_server.pipeline.pipeline import together

    try:
        results = await together(pipeline.generate(request, f"{i}") for i, request in enumerate(requests))
    finally:
        pipeline.shutdown()
    pictures = [picture for result in results for picture in result.pictures]
    if out.suffix.lower() not in FORMATS:
        for i, picture in enumerate(pictures):
            _write(out / f"{i:04d}.png", picture.pixels, f"seed {picture.seed}")
    elif len(pictures) == 1:
        _write(out, pictures[0].pixels, f"seed {pictures[0].seed}")
    else:
        columns = requests[0].n if requests[0].n > 1 else math.ceil(math.sqrt(len(pictures)))
        _write(out, contact_sheet([picture.pixels for picture in pictures], columns), f"{len(pictures)} pictures")


def _write(file: Path, pixels: NDArray[np.uint8], what: str) -> None:
    file.write_bytes(encode_image(pixels, FORMATS.get(file.suffix.lower(), "png")))
    logger.info("%s (%s)", file, what)

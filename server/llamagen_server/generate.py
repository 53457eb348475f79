"""``llamagen generate``: pictures from the command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llamagen_server.errors import describe
from llamagen_server.images import OutputFormat, encode_image
from llamagen_server.request import ImageRequest

if TYPE_CHECKING:
    from llamagen_server.pipeline import Pipeline

logger = logging.getLogger(__name__)

FORMATS: dict[str, OutputFormat] = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", metavar="MODEL | PROMPT", nargs="*", help="a model directory (default: the demo model), then captions"
    )
    parser.add_argument("--class-id", type=int, action="append", help="class, for a class model; may be repeated")
    parser.add_argument("--cfg-scale", type=float, help="guidance scale (default: the model's)")
    parser.add_argument(
        "--cfg-interval", type=int, default=-1, help="guide only image tokens 0 to K + 1 (default: all)"
    )
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: the model's)")
    parser.add_argument("--top-k", type=int, help="0 keeps every code (default: the model's)")
    parser.add_argument("--top-p", type=float, help="(default: the model's)")
    parser.add_argument("--seed", type=int, help="picture j is drawn with seed + j (default: random)")
    parser.add_argument("-n", type=int, default=1, help="pictures per prompt or class (default: %(default)s)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="an image file, or a folder for several pictures")


def run(args: argparse.Namespace) -> None:
    """Makes the pictures and writes them.

    Raises:
        ValueError: an argument or the model is wrong.
    """
    from llamagen_server import loading, vllm_args
    from llamagen_server.condition import resolve_condition

    model_path, prompts = split_words(args.words)
    requests = build_requests(args, prompts)
    files = output_files(args.out, sum(request.n for request in requests))
    model = loading.open_model(model_path)
    for request in requests:
        resolve_condition(request, model)
    flags = vllm_args.default_flags(enforce_eager=True, max_num_seqs=min(32, len(files)))
    asyncio.run(_generate(loading.load_pipeline(model, flags), requests, files))


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
    names = ("n", "cfg_scale", "cfg_interval", "temperature", "top_k", "top_p", "seed")
    options = {name: getattr(args, name) for name in names}
    try:
        return [ImageRequest(**condition, **options) for condition in conditions]
    except ValidationError as error:
        raise ValueError(describe(error.errors()[0])[0]) from None


def output_files(out: Path, count: int) -> list[Path]:
    """``out`` itself for one picture if it names an image file, else numbered files in the folder ``out``."""
    if out.suffix.lower() in FORMATS:
        if count > 1:
            raise ValueError(f"--out {out} is one file, but there are {count} pictures: give a folder")
        return [out]
    if out.suffix and not out.is_dir():
        raise ValueError(f"--out {out}: unknown image format {out.suffix}, must be one of {', '.join(FORMATS)}")
    return [out / f"{i:04d}.png" for i in range(count)]


async def _generate(pipeline: Pipeline, requests: list[ImageRequest], files: list[Path]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pipeline.generate(r, f"{i}")) for i, r in enumerate(requests)]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    finally:
        pipeline.shutdown()
    pictures = [picture for task in tasks for picture in task.result().pictures]
    for file, picture in zip(files, pictures, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_image(picture.pixels, FORMATS[file.suffix.lower()]))
        logger.info("%s (seed %d)", file, picture.seed)

"""``llamagen generate``: images from the command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llamagen_server.cli.model_flags import add_demo, chosen_model
from llamagen_server.cli.sampling_flags import add_sampling_flags, sampling_fields
from llamagen_server.core.errors import describe
from llamagen_server.core.options import NO_LIMITS
from llamagen_server.core.request import ImageRequest
from llamagen_server.core.results import GeneratedImage, Pixels
from llamagen_server.hub.names import is_like_name
from llamagen_server.image_files.sheet import contact_sheet
from llamagen_server.image_files.writing import OutputFormat, make_image_file

if TYPE_CHECKING:
    from llamagen_server.pipeline.pipeline import Pipeline

logger = logging.getLogger(__name__)

FORMATS: dict[str, OutputFormat] = {".png": "png", ".webp": "webp", ".jpg": "jpeg", ".jpeg": "jpeg"}

EXAMPLE = """examples:
  llamagen generate "a large red circle" "a green square" -n 4 -o images
  llamagen generate --demo class cat -o cat.png
  llamagen generate c2i-B-256 "golden retriever" --cfg-scale 4 --seed 7 -o dog.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "words",
        metavar="MODEL | PROMPT",
        nargs="*",
        help="a model directory, or a name that `llamagen models` lists (default: the demo model); then prompts, for a "
        "class model names of classes",
    )
    add_demo(parser)
    add("--class-id", type=int, action="append", help="class, for a class model; may be repeated")
    add_sampling_flags(parser)
    add("--seed", type=int, help="image j uses seed + j (default: random)")
    add("-n", type=int, default=1, help="images per prompt or class (default: %(default)s)")
    add(
        "-o",
        "--out",
        type=Path,
        required=True,
        help="an image file (several images become one sheet) or a folder",
    )


def run(args: argparse.Namespace) -> None:
    """Generates the images and writes them.

    Raises:
        ValueError: an argument or the model is wrong.
    """
    from llamagen_server.cli.loading import interruptible, load_pipeline
    from llamagen_server.engine.arguments import default_flags
    from llamagen_server.pipeline.build import open_model
    from llamagen_server.pipeline.condition import resolve_condition

    model_path, prompts = (None, args.words) if args.demo else split_words(args.words)
    requests = build_requests(args, prompts)
    check_out(args.out)
    model = open_model(chosen_model(model_path, args.demo))
    for request in requests:
        resolve_condition(request, model)
    flags = default_flags(enforce_eager=True, max_num_seqs=min(32, sum(request.n for request in requests)))
    pipeline = interruptible(partial(load_pipeline, model, flags, limits=NO_LIMITS))
    images = asyncio.run(_generate(pipeline, requests))
    _write_images(images, args.out, columns=args.n)


def split_words(words: list[str]) -> tuple[str | None, list[str]]:
    """Returns model and prompts. The first word is the model if it is a folder, or is written like a path or a name."""
    if words and (os.path.isdir(words[0]) or _is_like_path(words[0]) or is_like_name(words[0])):
        return words[0], words[1:]
    return None, words


def _is_like_path(word: str) -> bool:
    return os.sep in word and not any(c.isspace() for c in word)


def build_requests(args: argparse.Namespace, prompts: list[str]) -> list[ImageRequest]:
    """Returns one request per prompt or class.

    Raises:
        ValueError: there is neither a prompt nor a class, there are both, or a value is out of range.
    """
    if prompts and args.class_id:
        raise ValueError("give prompts or --class-id, not both")
    conditions: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts] or [
        {"class_id": c} for c in args.class_id or ()
    ]
    if not conditions:
        raise ValueError("nothing to generate: give a prompt (text models), or a label or --class-id (class models)")
    options = {**sampling_fields(args), "seed": args.seed, "n": args.n}
    try:
        return [ImageRequest(**condition, **options) for condition in conditions]
    except ValidationError as error:
        raise ValueError(describe(error.errors()[0])[0]) from None


def check_out(out: Path) -> None:
    """Creates the folder of ``out`` and checks that it is writable, before the model loads: no image may be lost.

    Raises:
        ValueError: the image format is unknown, or the folder cannot be written to.
    """
    if out.suffix and not out.is_dir() and out.suffix.lower() not in FORMATS:
        raise ValueError(f"--out {out}: unknown image format {out.suffix}, must be one of {', '.join(FORMATS)}")
    folder = out.parent if out.suffix else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: the folder {folder} cannot be made: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--out {out}: {folder} cannot be written to")


async def _generate(pipeline: Pipeline, requests: list[ImageRequest]) -> list[GeneratedImage]:
    from llamagen_server.pipeline.pipeline import together

    try:
        results = await together(pipeline.generate(request, f"{i}") for i, request in enumerate(requests))
    finally:
        pipeline.shutdown()
    return [image for result in results for image in result.images]


def _write_images(images: list[GeneratedImage], out: Path, columns: int) -> None:
    if out.suffix.lower() not in FORMATS:
        for i, image in enumerate(images):
            _write(out / f"{i:04d}.png", image.pixels, f"seed {image.seed}")
    elif len(images) == 1:
        _write(out, images[0].pixels, f"seed {images[0].seed}")
    else:
        columns = columns if columns > 1 else math.ceil(math.sqrt(len(images)))
        _write(out, contact_sheet([image.pixels for image in images], columns), f"{len(images)} images")


def _write(file: Path, pixels: Pixels, note: str) -> None:
    file.write_bytes(make_image_file(pixels, FORMATS.get(file.suffix.lower(), "png")))
    logger.info("%s (%s)", file, note)

"""``llamagen sample``: a set of images for evaluation. Flags for the engine are those of vLLM."""

from __future__ import annotations

import argparse
import asyncio
import logging
from contextlib import ExitStack
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llamagen_server.cli.model_flags import EPILOG, add_model_flags, add_vllm_flags, open_chosen
from llamagen_server.cli.sampling_flags import add_sampling_flags, sampling_fields
from llamagen_server.core.errors import describe
from llamagen_server.core.options import NO_LIMITS
from llamagen_server.core.request import MAX_SEED, ImageRequest
from llamagen_server.core.sampling import SamplingDefaults

if TYPE_CHECKING:
    from llamagen_server.model_dir import ModelDir
    from llamagen_server.pipeline.pipeline import Pipeline
    from llamagen_server.sample.outputs import Output
    from llamagen_server.sample.plan import SamplePlan, Shard

logger = logging.getLogger(__name__)

NUM_IMAGES = 50_000
PRESETS = ("paper",)
ENGINE_FLAGS = (
    "dtype", "cfg_branches", "decode_window", "kv_cache_dtype", "quantization", "hf_overrides", "tensor_parallel_size",
)  # fmt: skip
"""Flags that may change the rounding of logits; the files state them."""

EXAMPLE = """examples:
  llamagen sample c2i-B-256 --preset paper --out c2i-B-256.npz
  llamagen sample t2i-XL-stage1-256 --captions PartiPrompts.tsv --images-per-caption 4 --out parti
  llamagen sample --captions captions.txt --shard 1/2 --out part1.npz
  llamagen sample --join part1.npz part2.npz --out all.npz"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds our flags and vLLM's."""
    add_vllm_flags(parser, add_own_arguments)


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds our own flags, which ``--help`` shows; imports nothing heavy."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG + EXAMPLE
    group = parser.add_argument_group("llamagen-serve")
    add = group.add_argument
    add(
        "--out",
        type=Path,
        action="append",
        required=True,
        metavar="F.npz|DIR",
        help="an .npz as ADM's evaluator reads it, or a folder of PNG files; may be given twice, for both. An "
        "unfinished one is continued",
    )
    add("--codes", action="store_true", help="store the codes too: `codes` in an .npz, DIR/codes/*.json in a folder")
    add(
        "--preset",
        choices=PRESETS,
        help="paper: the authors' scale, top-k, temperature, image size and number of images; other flags override it",
    )
    add(
        "--num-images",
        type=int,
        metavar="N",
        help=f"images of the whole set (default: {NUM_IMAGES} for a class model, else those of all captions)",
    )
    add("--first-seed", type=int, default=0, metavar="S", help="image i has the seed S + i (default: %(default)s)")
    add(
        "--class-id",
        type=int,
        action="append",
        metavar="C",
        help="class, for a class model; may be repeated (default: all). Image i has class i modulo their number",
    )
    add(
        "--captions",
        type=Path,
        metavar="FILE|DIR",
        help="captions, for a text model: .txt with one a line, .csv, .tsv or .jsonl with a column caption, prompt or "
        "text, COCO's .json, or a folder of .txt files",
    )
    add("--column", metavar="NAME", help="column of --captions with the captions")
    add("--images-per-caption", type=int, default=1, metavar="N", help="a group of N images (default: %(default)s)")
    add(
        "--truncate-captions",
        action="store_true",
        help="cut captions that have too many tokens, as the official code does (default: refuse them)",
    )
    add("--image-size-eval", type=int, metavar="PX", help="resize the images, as the official script for FID does")
    add("--shard", default="1/1", metavar="I/N", help="make only part I of N of the set (default: %(default)s)")
    add(
        "--join",
        type=Path,
        nargs="+",
        metavar="F.npz",
        help="make no images, but --out from the files of all shards",
    )
    add_sampling_flags(group)
    add_model_flags(parser, group)


def run(args: argparse.Namespace) -> None:
    """Samples the images that are missing.

    Raises:
        ValueError: the model, a flag or a file is wrong.
        EngineError: the engine did not start, ended, or failed on an image.
        OSError: the disk is full.
    """
    from llamagen_server.sample.plan import Shard

    check_outputs(args.out)
    if args.join:
        join(args.join, args.out)
        return
    from llamagen_server.cli.loading import interruptible, load_pipeline
    from llamagen_server.pipeline.build import decoding_dtype, public_name, stage_device
    from llamagen_server.sample.settings import describe_captions, describe_samples

    shard = Shard.parse(args.shard)
    model = open_chosen(args)
    if args.preset:
        apply_preset(args, public_name(model))
    plan = make_plan(args, model)
    side = model.image_size if args.image_size_eval is None else args.image_size_eval
    if side < 1:
        raise ValueError(f"--image-size-eval is {side}, must be at least 1")
    device = stage_device()
    engine = {"device": device.type, "vq_dtype": decoding_dtype(model, device, args.vq_dtype)}
    engine |= {flag: value for flag in ENGINE_FLAGS if (value := getattr(args, flag))}
    settings = {**describe_samples(model, public_name(model), plan, shard, side, engine), "codes": args.codes}
    if args.captions:
        settings |= describe_captions(args.captions.name, plan, args.truncate_captions)
    else:
        settings["class_ids"] = args.class_id or "all"
    with ExitStack() as opened:
        outputs = [open_output(path, args, model, plan, shard, side, settings) for path in args.out]
        for output in outputs:
            opened.callback(output.close)
        indices = shard.indices(plan.count)
        if all(output.has(index) for index in indices for output in outputs):
            logger.info("all %d images are there", len(indices))
        else:
            load = partial(load_pipeline, model, args, limits=NO_LIMITS, vq_dtype=args.vq_dtype, own_process_group=True)
            pipeline = interruptible(load)
            asyncio.run(_sample(pipeline, plan, indices, outputs, side, args.truncate_captions))
        for path, output in zip(args.out, outputs, strict=True):
            output.finish()
            logger.info("%s: %d images of %dx%d", path, len(indices), side, side)


async def _sample(
    pipeline: Pipeline, plan: SamplePlan, indices: range, outputs: list[Output], side: int, truncate: bool
) -> None:
    from llamagen_server.sample.run import sample

    try:
        pipeline.image_tokenizer.resize_decoded(side)
        if pipeline.text:
            await asyncio.to_thread(pipeline.text.check, plan.numbered_captions(indices), truncate)
        await sample(pipeline, plan, indices, outputs)
    finally:
        pipeline.shutdown()


def join(files: list[Path], out: list[Path]) -> None:
    """Joins the files of all shards.

    Raises:
        ValueError: they do not make a whole set.
    """
    from llamagen_server.sample.join import join_shards

    if len(out) > 1 or out[0].suffix != ".npz":
        raise ValueError("--join needs one --out F.npz; folders of shards can be moved into one")
    count = join_shards(files, out[0])
    logger.info("%s: %d images", out[0], count)


def check_outputs(paths: list[Path]) -> None:
    """Makes the folders of the outputs.

    Raises:
        ValueError: an output is neither an ``.npz`` nor a folder, or is there twice.
    """
    if len(set(paths)) < len(paths):
        raise ValueError(f"--out {paths[0]} is given twice")
    for path in paths:
        if path.suffix == ".npz":
            if path.is_dir():
                raise ValueError(f"--out {path} is a folder, must be a file")
            path.parent.mkdir(parents=True, exist_ok=True)
        elif path.is_file() or path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
            raise ValueError(f"--out {path}: must be a file that ends with .npz, or a folder")


def apply_preset(args: argparse.Namespace, name: str) -> None:
    """Sets the flags of the preset that the user has left out."""
    from llamagen_server.sample.settings import paper_preset

    given = {"cfg_scale": args.cfg_scale if args.cfg_scale is not None else args.guidance_scale}
    for flag, value in paper_preset(name, given["cfg_scale"]).items():
        if given.get(flag, getattr(args, flag)) is None:
            setattr(args, flag, value)


def make_plan(args: argparse.Namespace, model: ModelDir) -> SamplePlan:
    """Checks the flags that say what the images are.

    Raises:
        ValueError: a flag is out of range, or not for this kind of model.
    """
    from llamagen_server.sample.captions import read_captions
    from llamagen_server.sample.plan import SamplePlan

    for flag, value in (("--num-images", args.num_images), ("--images-per-caption", args.images_per_caption)):
        if value is not None and value < 1:
            raise ValueError(f"{flag} is {value}, must be at least 1")
    if not 0 <= args.first_seed <= MAX_SEED:
        raise ValueError(f"--first-seed is {args.first_seed}, must be 0 to {MAX_SEED}")
    try:
        request = ImageRequest(**sampling_fields(args))
    except ValidationError as error:
        raise ValueError(describe(error.errors()[0])[0]) from None
    sampling = {field.name: getattr(request, field.name) for field in fields(SamplingDefaults)}
    plan = partial(SamplePlan, first_seed=args.first_seed, sampling=sampling)
    if model.config.condition == "text":
        if args.class_id:
            raise ValueError("--class-id is for class models; this one needs --captions")
        if not args.captions:
            raise ValueError("--captions is missing: this model generates from prompts")
        captions = read_captions(args.captions, args.column)
        group = args.images_per_caption
        return plan(count=args.num_images or len(captions) * group, captions=captions, group=group)
    if args.captions or args.column or args.images_per_caption != 1:
        raise ValueError("--captions, --column and --images-per-caption are for text models; this one has classes")
    classes = args.class_id or list(range(model.config.num_classes))
    if wrong := [c for c in classes if not 0 <= c < model.config.num_classes]:
        raise ValueError(f"--class-id is {wrong[0]}, must be 0 to {model.config.num_classes - 1}")
    return plan(count=args.num_images or NUM_IMAGES, class_ids=classes)


def open_output(
    path: Path,
    args: argparse.Namespace,
    model: ModelDir,
    plan: SamplePlan,
    shard: Shard,
    side: int,
    settings: dict[str, Any],
) -> Output:
    """Opens an output, as far as it is there already.

    Raises:
        ValueError: it has other samples, or too little space is left for it.
    """
    from llamagen_server.sample.outputs import NpzOutput, PngOutput

    if path.suffix != ".npz":
        return PngOutput(path, settings, partial(describe_image, plan, model), args.codes)
    indices = shard.indices(plan.count)
    num_tokens = model.config.num_image_tokens if args.codes else 0
    return NpzOutput(path, indices, side, num_tokens, settings)


def describe_image(plan: SamplePlan, model: ModelDir, index: int) -> tuple[str | None, dict[str, Any]]:
    """Returns the prompt of an image, for a class model the class's name, and its own settings."""
    condition = plan.condition(index)
    own: dict[str, Any] = {"index": index, "seed": plan.seed(index)}
    if isinstance(condition, str):
        return condition, own
    names = (model.labels or {}).get(condition)
    return names[0] if names else None, {**own, "class_id": condition}

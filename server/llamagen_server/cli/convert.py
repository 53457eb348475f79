"""``llamagen convert``: makes a model directory from checkpoints."""

from __future__ import annotations

import argparse
from dataclasses import fields

from llamagen_server.convert.convert import convert
from llamagen_server.convert.options import ConvertOptions
from llamagen_server.hub.names import resolve_checkpoint
from llamagen_server.model_dir.directory import DTYPES
from llamagen_tokenizer.state_dict import KINDS
from vllm_llamagen.limits import SCHEDULES

EXAMPLE = """example:
  llamagen convert --gpt-ckpt t2i_XL_stage1_256.pt --vq-ckpt vq_ds16_t2i.pt \\
      --text-encoder google/flan-t5-xl --out models/t2i-xl"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_files(parser)
    _add_shape(parser)
    _add_sampling_defaults(parser)


def run(args: argparse.Namespace) -> None:
    """Converts.

    Raises:
        ValueError: an input cannot be used or the output cannot be written; one line that names the file or flag.
    """
    options = {field.name: getattr(args, field.name) for field in fields(ConvertOptions)}
    for name in ("gpt_ckpt", "vq_ckpt"):
        options[name] = resolve_checkpoint(options[name])
    convert(ConvertOptions(**options))


def _add_files(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--gpt-ckpt",
        required=True,
        metavar="FILE|DIR",
        help="official GPT checkpoint (c2i_*.pt, t2i_*.pt, or a name of `llamagen models`) or your own: a torch or "
        "safetensors file, or a folder",
    )
    add(
        "--vq-ckpt",
        required=True,
        metavar="FILE|DIR",
        help="official image tokenizer (vq_ds16_c2i.pt, ..., or a name of `llamagen models`) or your own; may be the "
        "same file as --gpt-ckpt",
    )
    add(
        "--weights",
        choices=KINDS,
        help="weights to use of a checkpoint that has both; one of the two checkpoints must have them "
        "(default: model for --gpt-ckpt and ema for --vq-ckpt, as in the official code)",
    )
    add("--out", required=True, metavar="DIR", help="model directory to make; must be new or empty")
    add(
        "--text-encoder", metavar="DIR|ID", help="T5 or CLIP text encoder of a text model: directory or Hugging Face id"
    )
    add("--labels", metavar="F.json", help="names of the classes: {class id: [name, ...]}")
    add(
        "--no-clean-caption",
        dest="clean_caption",
        action="store_false",
        help="for text models trained on captions without the official cleaning",
    )


def _add_shape(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--gpt-config", metavar="F.json", help="official ModelArgs fields that the checkpoint lacks (n_head, ...)")
    add(
        "--vq-config",
        metavar="F.json",
        help="official VQ ModelArgs fields, and ch, of an image tokenizer of another shape",
    )
    add("--image-size", type=int, metavar="N", help="side of the images in pixels, if the checkpoint does not state it")
    add("--dtype", choices=DTYPES, help="dtype of the GPT weights (default: as in the checkpoint)")


def _add_sampling_defaults(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--cfg-scale", type=float, metavar="S", help="default guidance scale (default: 4.0 for classes, 7.5 for text)")
    add("--cfg-min-p", type=float, metavar="P", help="default cfg_min_p, from 0 (keeps every code) to 1 (default: 0)")
    add("--cfg-interval", type=int, metavar="K", help="by default guide image tokens 0 to K + 1; -1: all (default: -1)")
    add("--cfg-schedule", choices=SCHEDULES, help="default scale over the image (default: constant)")
    add("--temperature", type=float, metavar="T", help="default temperature (default: 1.0)")
    add("--top-k", type=int, metavar="K", help="default top-k, 0 is off (default: 2000 for classes, 1000 for text)")
    add("--top-p", type=float, metavar="P", help="default top-p (default: 1.0)")

"""Arguments and course of ``llamagen convert``."""

from __future__ import annotations

import argparse
import logging
import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from llamagen_server.convert.config import infer_config, is_buffer
from llamagen_server.convert.grid import Hints
from llamagen_server.convert.output_dir import free_directory, make_readable, staged
from llamagen_server.convert.vq import read_vq
from llamagen_server.core.sampling import OFFICIAL_DEFAULTS, SamplingDefaults
from llamagen_server.model_dir.directory import DTYPES, ModelDir
from llamagen_server.model_dir.encoder_files import check_encoder, copy_encoder
from llamagen_server.model_dir.generation_config import write_defaults
from llamagen_server.model_dir.json_file import read_object
from llamagen_server.model_dir.labels import Labels, read_labels, write_labels
from llamagen_tokenizer import VQModel, save_vq
from llamagen_tokenizer.checkpoint import find_weights, load_pt
from vllm_llamagen.config import LlamaGenConfig

logger = logging.getLogger(__name__)

GPT_KEYS = ("model", "module", "state_dict")
"""Where the weights of a GPT checkpoint are, in the order of the official samplers."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--gpt-ckpt", required=True, metavar="F.pt", help="official GPT checkpoint (c2i_*.pt, t2i_*.pt) or your own")
    add("--vq-ckpt", required=True, metavar="F.pt", help="official image tokenizer (vq_ds16_c2i.pt, ...) or your own")
    add("--out", required=True, metavar="DIR", help="model directory to make; must not exist or be empty")
    add(
        "--text-encoder", metavar="DIR|ID", help="T5 or CLIP text encoder of a text model: directory or Hugging Face id"
    )
    add(
        "--gpt-config",
        metavar="F.json",
        help="official ModelArgs fields that the checkpoint does not tell (n_head, ...)",
    )
    add("--vq-config", metavar="F.json", help="official VQ ModelArgs fields, and ch, of a tokenizer of another shape")
    add("--image-size", type=int, metavar="N", help="side of the images in pixels, if the checkpoint does not tell it")
    add("--labels", metavar="F.json", help="names of the classes: {class id: [name, ...]}")
    add("--no-clean-caption", action="store_true", help="the text model was trained on captions as they are")
    add("--dtype", choices=DTYPES, help="dtype of the GPT weights (default: as in the checkpoint)")
    add("--cfg-scale", type=float, metavar="S", help="default guidance scale (default: 4.0 for classes, 7.5 for text)")
    add("--temperature", type=float, metavar="T", help="default temperature (default: 1.0)")
    add("--top-k", type=int, metavar="K", help="default top-k, 0 is off (default: 2000 for classes, 1000 for text)")
    add("--top-p", type=float, metavar="P", help="default top-p (default: 1.0)")


def run(args: argparse.Namespace) -> None:
    """Converts.

    Raises:
        ValueError: an input cannot be used, or the output cannot be written; one line that says which and why.
    """
    out = free_directory(Path(args.out))
    vq = read_vq(args.vq_ckpt, args.vq_config)
    config, weights = _read_gpt(args, vq)
    _check_codebook(config, vq, args)
    config.clean_caption = not args.no_clean_caption
    encoder = _text_encoder(args, config)
    if encoder is None:
        config.text_encoder = args.text_encoder
    defaults = _defaults(args, config)
    labels = _labels(args, config)
    with staged(out) as directory:
        config.save_pretrained(directory)
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        write_defaults(directory / "generation_config.json", defaults)
        save_vq(vq, directory / "vq")
        if encoder is not None:
            copy_encoder(encoder, directory / "text_encoder")
        if labels is not None:
            write_labels(directory / "labels.json", labels)
        make_readable(directory)
        model = ModelDir.open(directory)
    size = sum(tensor.numel() for tensor in weights.values())
    logger.info("%s: %s model, %d parameters, %d pixels", out, config.condition, size, model.image_size)


def _read_gpt(args: argparse.Namespace, vq: VQModel) -> tuple[LlamaGenConfig, dict[str, Tensor]]:
    content = load_pt(args.gpt_ckpt)
    weights = find_weights(content, GPT_KEYS, args.gpt_ckpt)
    trainer_args = content.get("args")
    hints = Hints(
        file=str(args.gpt_ckpt),
        downsample=vq.config.downsample,
        model_args=read_object(args.gpt_config) if args.gpt_config else {},
        trainer_args=vars(trainer_args) if isinstance(trainer_args, argparse.Namespace) else {},
        image_size=args.image_size,
    )
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    weights = {name: tensor for name, tensor in weights.items() if not is_buffer(name)}
    dtype = args.dtype or _stored_dtype(weights, args.gpt_ckpt)
    return infer_config(shapes, hints, dtype), {name: _cast(tensor, dtype) for name, tensor in weights.items()}


def _stored_dtype(weights: dict[str, Tensor], source: str) -> str:
    """The dtype of the file; the widest where it has several."""
    stored = {str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}
    if unknown := sorted(stored - set(DTYPES)):
        raise ValueError(f"{source}: has tensors of {unknown[0]}; choose one of {', '.join(DTYPES)} with --dtype")
    return stored.pop() if len(stored) == 1 else "float32"


def _cast(tensor: Tensor, dtype: str) -> Tensor:
    """A dense tensor of that dtype; the one of the file (memory-mapped), where it is that already."""
    tensor = tensor.detach().to(getattr(torch, dtype)).contiguous()
    return tensor if tensor.nbytes == tensor.untyped_storage().nbytes() else tensor.clone()


def _check_codebook(config: LlamaGenConfig, vq: VQModel, args: argparse.Namespace) -> None:
    if vq.config.codebook_size != config.codebook_size:
        raise ValueError(
            f"{args.vq_ckpt} has {vq.config.codebook_size} codes, {args.gpt_ckpt} was trained on {config.codebook_size}"
        )


def _text_encoder(args: argparse.Namespace, config: LlamaGenConfig) -> Path | None:
    """The directory to copy, if there is one."""
    source = args.text_encoder
    if config.condition == "class":
        if source is not None:
            raise ValueError(f"{args.gpt_ckpt} is a class model, it takes no --text-encoder")
        return None
    if source is None:
        raise ValueError(f"{args.gpt_ckpt} is a text model, give its text encoder with --text-encoder")
    if Path(source).is_dir():
        check_encoder(Path(source), config.caption_dim)
        return Path(source)
    if not HUB_ID.fullmatch(source):
        raise ValueError(f"--text-encoder {source}: neither a directory nor a Hugging Face id")
    logger.info("%s is no directory here: recorded as a Hugging Face id, to be downloaded when serving", source)
    return None


def _defaults(args: argparse.Namespace, config: LlamaGenConfig) -> SamplingDefaults:
    given = {name: getattr(args, name) for name in ("cfg_scale", "temperature", "top_k", "top_p")}
    return replace(OFFICIAL_DEFAULTS[config.condition], **{k: v for k, v in given.items() if v is not None})


def _labels(args: argparse.Namespace, config: LlamaGenConfig) -> Labels | None:
    if args.labels is None:
        return None
    if config.condition == "text":
        raise ValueError(f"{args.gpt_ckpt} is a text model, it takes no --labels")
    return read_labels(args.labels, config.num_classes)

"""Converts checkpoints to a model directory."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from llamagen_server.convert.checkpoint import check_kind, open_checkpoint
from llamagen_server.convert.gpt import read_gpt
from llamagen_server.convert.options import ConvertOptions
from llamagen_server.convert.output_dir import atomic_directory, make_readable, resolve_output
from llamagen_server.convert.vq import read_vq
from llamagen_server.core.sampling import OFFICIAL_DEFAULTS, SamplingDefaults
from llamagen_server.model_dir.directory import ModelDir
from llamagen_server.model_dir.encoder_files import check_encoder, copy_encoder
from llamagen_server.model_dir.generation_config import write_defaults
from llamagen_server.model_dir.labels import Labels, read_labels, write_labels
from llamagen_tokenizer import VQModel, save_vq
from llamagen_tokenizer.state_dict import GPT, VQ
from vllm_llamagen.config import LlamaGenConfig

logger = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?")


@dataclass(frozen=True)
class _Contents:
    """Contents of the model directory."""

    config: LlamaGenConfig
    weights: dict[str, Tensor]
    vq: VQModel
    defaults: SamplingDefaults
    labels: Labels | None
    encoder: Path | None
    """Text encoder to copy."""


def convert(options: ConvertOptions) -> ModelDir:
    """Makes a model directory and opens it. If anything fails, nothing is left at ``options.out``.

    Raises:
        ValueError: an input cannot be used or the output cannot be written; one line that names the file or flag.
    """
    out = resolve_output(Path(options.out))
    contents = _read(options)
    with atomic_directory(out) as directory:
        _write(contents, directory)
        ModelDir.open(directory)
    model = ModelDir.open(out)
    size = sum(tensor.numel() for tensor in contents.weights.values())
    logger.info("%s: %s model, %d parameters, %d pixels", out, model.config.condition, size, model.image_size)
    return model


def _read(options: ConvertOptions) -> _Contents:
    gpt_ckpt = open_checkpoint(options.gpt_ckpt, GPT, options.weights)
    vq_ckpt = open_checkpoint(options.vq_ckpt, VQ, options.weights)
    check_kind(options.weights, (gpt_ckpt, vq_ckpt))
    vq = read_vq(vq_ckpt, options.vq_config)
    config, weights = read_gpt(gpt_ckpt, options, vq.config.downsample)
    _check_codebook(config, vq, options)
    encoder = _encoder_to_copy(options, config)
    config.clean_caption = options.clean_caption
    if encoder is None and options.text_encoder is not None:
        config.text_encoder = str(options.text_encoder)
    return _Contents(config, weights, vq, _defaults(options, config), _labels(options, config), encoder)


def _write(contents: _Contents, directory: Path) -> None:
    contents.config.save_pretrained(directory)
    save_file(contents.weights, directory / "model.safetensors", metadata={"format": "pt"})
    write_defaults(directory / "generation_config.json", contents.defaults)
    save_vq(contents.vq, directory / "vq")
    if contents.encoder is not None:
        copy_encoder(contents.encoder, directory / "text_encoder")
    if contents.labels is not None:
        write_labels(directory / "labels.json", contents.labels)
    make_readable(directory)


def _check_codebook(config: LlamaGenConfig, vq: VQModel, options: ConvertOptions) -> None:
    if vq.config.codebook_size != config.codebook_size:
        raise ValueError(
            f"{options.vq_ckpt} has {vq.config.codebook_size} codes, "
            f"{options.gpt_ckpt} was trained on {config.codebook_size}"
        )


def _encoder_to_copy(options: ConvertOptions, config: LlamaGenConfig) -> Path | None:
    """Returns the directory of the text encoder; None for class models and Hugging Face ids."""
    source = options.text_encoder
    if config.condition == "class":
        if source is not None:
            raise ValueError(f"{options.gpt_ckpt} is a class model, it takes no --text-encoder")
        return None
    if source is None:
        raise ValueError(f"{options.gpt_ckpt} is a text model, give its text encoder with --text-encoder")
    if Path(source).is_dir():
        check_encoder(Path(source), config.caption_dim)
        return Path(source)
    if not HUB_ID.fullmatch(str(source)):
        raise ValueError(f"--text-encoder {source}: neither a directory nor a Hugging Face id")
    logger.info("%s is not a local directory: recorded as a Hugging Face id, to be downloaded when serving", source)
    return None


def _defaults(options: ConvertOptions, config: LlamaGenConfig) -> SamplingDefaults:
    given = {field.name: getattr(options, field.name) for field in fields(SamplingDefaults)}
    return replace(OFFICIAL_DEFAULTS[config.condition], **{k: v for k, v in given.items() if v is not None})


def _labels(options: ConvertOptions, config: LlamaGenConfig) -> Labels | None:
    if options.labels is None:
        return None
    if config.condition == "text":
        raise ValueError(f"{options.gpt_ckpt} is a text model, it takes no --labels")
    return read_labels(options.labels, config.num_classes)

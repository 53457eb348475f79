"""The tables of ``llamagen models``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llamagen_server.hub.catalogue import LICENCE, MODELS, TOKENIZERS

GIB = 2**30
MIB = 2**20

MODEL_HEADINGS = (
    "model", "parameters", "px", "image tokens", "weights, GiB", "KV cache per image, MiB", "licence", "paper's FID",
    "at cfg_scale",
)  # fmt: skip
TOKENIZER_HEADINGS = ("image tokenizer", "parameters", "px per token", "weights, GiB", "licence", "paper's rFID")


def model_rows() -> list[list[str]]:
    """Returns the rows below `MODEL_HEADINGS`; a figure that is not known is an empty cell."""
    return [
        [
            name,
            _millions(model.parameters),
            str(model.image_size),
            str(model.config.num_image_tokens),
            f"{model.weight_bytes / GIB:.1f}",
            f"{model.kv_cache_bytes / MIB:.0f}",
            LICENCE,
            _figure(model.fid),
            _figure(model.cfg_scale),
        ]
        for name, model in MODELS.items()
    ]


def tokenizer_rows() -> list[list[str]]:
    """Returns the rows below `TOKENIZER_HEADINGS`."""
    return [
        [
            name,
            _millions(tokenizer.parameters),
            str(tokenizer.downsample),
            f"{tokenizer.parameters * 4 / GIB:.1f}",
            LICENCE,
            _figure(tokenizer.rfid),
        ]
        for name, tokenizer in TOKENIZERS.items()
    ]


def as_text(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table with aligned columns."""
    lines = [headings, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def as_objects() -> list[dict[str, Any]]:
    """Returns every checkpoint with its figures and files, for JSON."""
    models = [
        {
            "name": name,
            "kind": model.condition,
            "parameters": model.parameters,
            "image_size": model.image_size,
            "image_tokens": model.config.num_image_tokens,
            "weight_bytes": model.weight_bytes,
            "kv_cache_bytes_per_image": model.kv_cache_bytes,
            "licence": LICENCE,
            "paper_fid": model.fid,
            "paper_inception_score": model.inception_score,
            "paper_cfg_scale": model.cfg_scale,
            "image_tokenizer": model.tokenizer,
            "text_encoder": model.text_encoder,
            "file": asdict(model.file),
        }
        for name, model in MODELS.items()
    ]
    tokenizers = [
        {
            "name": name,
            "kind": "image_tokenizer",
            "parameters": tokenizer.parameters,
            "downsample": tokenizer.downsample,
            "licence": LICENCE,
            "paper_rfid": tokenizer.rfid,
            "file": asdict(tokenizer.file),
        }
        for name, tokenizer in TOKENIZERS.items()
    ]
    return [*models, *tokenizers]


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.0f} M" if parameters < 1e9 else f"{parameters / 1e9:.1f} B"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

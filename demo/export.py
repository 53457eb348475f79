"""Writes the trained models in the official checkpoint format, as input for ``llamagen convert``.

    python -m demo.export --vq demo/runs/edges/checkpoint.pt --ar demo/runs/ar2/checkpoint.pt --out demo/runs/export
    python -m demo.export --vq demo/runs/emoji-vq64/checkpoint.pt --ar demo/runs/emoji-ar/checkpoint.pt \
        --out demo/runs/emoji-export

``gpt.pt`` and ``vq.pt`` contain ``{"model": weights}``, ``gpt_config.json`` and ``vq_config.json`` the fields of the
official ``ModelArgs``. A text model has ``text_encoder/``, a Hugging Face model directory, a class model
``labels.json``, the names of its classes. All weights are float16.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from demo.checkpoint import load_trained, load_trained_vq
from demo.emoji import train_ar as emoji
from demo.emoji.classes import labels
from demo.model import GPT
from demo.shapes import train_ar as shapes
from demo.shapes.text_encoder import TextEncoder
from llamagen_tokenizer.model import VQModel

logger = logging.getLogger(__name__)

MAX_BYTES = 25_000_000
"""Maximum size of all exported files together."""


def to_float16(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous float16 copies of the weights.

    Raises:
        ValueError: a weight is outside the range of float16.
    """
    cast = {name: value.to(torch.float16).contiguous().clone() for name, value in weights.items()}
    if bad := [name for name, value in cast.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"weights outside the range of float16: {', '.join(bad)}")
    return cast


def export(
    gpt: GPT,
    vq: VQModel,
    out: Path,
    encoder: TextEncoder | None = None,
    labels: Mapping[int, Sequence[str]] | None = None,
) -> int:
    """Writes all files to ``out`` and returns their total size in bytes.

    Args:
        encoder: the text encoder of a text model.
        labels: names of each class of a class model.

    Raises:
        ValueError: a weight is outside the range of float16, or the total exceeds MAX_BYTES.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"model": to_float16(gpt.state_dict())}, out / "gpt.pt")
    torch.save({"model": to_float16(vq.state_dict())}, out / "vq.pt")
    _write_json(out / "gpt_config.json", asdict(gpt.config))
    _write_json(out / "vq_config.json", asdict(vq.config))
    if encoder:
        encoder.model.to(torch.float16)
        encoder.save(out / "text_encoder")
        encoder.model.to(torch.float32)
        (out / "text_encoder" / "model.safetensors").chmod(0o644)  # save_pretrained lets only the owner read it
    if labels:
        _write_json(out / "labels.json", labels)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"{out}: {size} bytes, at most {MAX_BYTES} are allowed")
    return size


def _write_json(path: Path, values: Mapping[Any, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vq", type=Path, help="checkpoint of the image tokenizer", required=True)
    parser.add_argument("--ar", type=Path, help="checkpoint of the language model", required=True)
    parser.add_argument("--out", type=Path, help="directory to write", required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    vq = load_trained_vq(args.vq)
    if load_trained(args.ar)["config"]["model_type"] == "c2i":
        size = export(emoji.load_trained_ar(args.ar), vq, args.out, labels=labels())
    else:
        models = shapes.load_trained_ar(args.ar)
        size = export(models.gpt, vq, args.out, models.encoder)
    logger.info("%s: %.1f MB", args.out, size / 1e6)


if __name__ == "__main__":
    main()

"""Writes the trained models in the official checkpoint format, as input for ``llamagen convert``.

    python -m demo.export --vq demo/runs/vq128/checkpoint.pt --ar demo/runs/ar/checkpoint.pt --out demo/runs/export

``gpt.pt`` and ``vq.pt`` contain ``{"model": weights}``, ``gpt_config.json`` and ``vq_config.json`` the fields of the
official ``ModelArgs``. ``text_encoder/`` is a Hugging Face model directory. All weights are float16.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from demo.checkpoint import load_trained_vq
from demo.shapes.train_ar import TextToImage, load_trained_ar
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


def export(models: TextToImage, vq: VQModel, out: Path) -> int:
    """Writes all files to ``out`` and returns their total size in bytes.

    Raises:
        ValueError: a weight is outside the range of float16, or the total exceeds MAX_BYTES.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.save({"model": to_float16(models.gpt.state_dict())}, out / "gpt.pt")
    torch.save({"model": to_float16(vq.state_dict())}, out / "vq.pt")
    _write_json(out / "gpt_config.json", asdict(models.gpt.config))
    _write_json(out / "vq_config.json", asdict(vq.config))
    models.encoder.model.to(torch.float16)
    models.encoder.save(out / "text_encoder")
    models.encoder.model.to(torch.float32)
    (out / "text_encoder" / "model.safetensors").chmod(0o644)  # save_pretrained lets only the owner read it
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    if size > MAX_BYTES:
        raise ValueError(f"{out}: {size} bytes, at most {MAX_BYTES} are allowed")
    return size


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vq", type=Path, help="image tokenizer", default=Path("demo/runs/vq128/checkpoint.pt"))
    parser.add_argument("--ar", type=Path, help="language model", default=Path("demo/runs/ar/checkpoint.pt"))
    parser.add_argument("--out", type=Path, help="directory to write", default=Path("demo/runs/export"))
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    size = export(load_trained_ar(args.ar), load_trained_vq(args.vq), args.out)
    logger.info("%s: %.1f MB", args.out, size / 1e6)


if __name__ == "__main__":
    main()

"""Shape of the image tokenizer, and the released shapes by name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class VQConfig:
    """Hyper-parameters of the VQ model (fields of ``ModelArgs`` in the official ``vq_model.py``).

    ``ch`` and ``num_res_blocks`` are constants in the official code; as fields they allow small models. Each entry of
    ``encoder_ch_mult`` is one resolution, so the sides of an image shrink by ``2 ** (entries - 1)``.

    Raises:
        ValueError: a value is not allowed, or the numbers of resolutions differ.
    """

    codebook_size: int = 16384
    codebook_embed_dim: int = 8
    encoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    decoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    z_channels: int = 256
    ch: int = 128
    num_res_blocks: int = 2
    codebook_l2_norm: bool = True
    """Whether features and codebook count as unit vectors, as in the released checkpoints; false for a VQGAN."""
    dtype: str = "float32"
    """Data type of the decoder: ``float32`` (official), or ``bfloat16`` on CPUs with bfloat16 arithmetic."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder_ch_mult", tuple(self.encoder_ch_mult))
        object.__setattr__(self, "decoder_ch_mult", tuple(self.decoder_ch_mult))
        if len(self.encoder_ch_mult) != len(self.decoder_ch_mult):
            raise ValueError(
                f"encoder_ch_mult has {len(self.encoder_ch_mult)} resolutions, "
                f"decoder_ch_mult has {len(self.decoder_ch_mult)}; they must be equal"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, must be 'float32' or 'bfloat16'")
        if not isinstance(self.codebook_l2_norm, bool):
            raise ValueError(f"codebook_l2_norm is {self.codebook_l2_norm!r}, must be true or false")
        if self.ch % 32:
            raise ValueError(f"ch is {self.ch}, must be a multiple of 32 (GroupNorm has 32 groups)")

    @property
    def downsample(self) -> int:
        """Downsampling factor: pixels per image token along one side, along one side."""
        return 2 ** (len(self.encoder_ch_mult) - 1)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VQConfig:
        """Builds a config from official ``ModelArgs`` fields; fields that only concern training are ignored.

        Raises:
            ValueError: a field is unknown, or its value is not supported.
        """
        training_only = {"codebook_show_usage", "commit_loss_beta", "entropy_loss_ratio", "dropout_p"}
        names = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - names - training_only):
            raise ValueError(f"unknown VQ config field {', '.join(unknown)}; known: {', '.join(sorted(names))}")
        return cls(**{k: v for k, v in values.items() if k in names})

    @classmethod
    def from_json(cls, path: str | Path) -> VQConfig:
        return cls.from_dict(json.loads(Path(path).read_text()))

    def to_json(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n")


CONFIGS: dict[str, VQConfig] = {
    "VQ-16": VQConfig(),
    "VQ-8": VQConfig(encoder_ch_mult=(1, 2, 2, 4), decoder_ch_mult=(1, 2, 2, 4)),
}
"""The released image tokenizers: ``vq_ds16_c2i.pt`` and ``vq_ds16_t2i.pt`` are VQ-16, ``vq_ds8_c2i.pt`` is VQ-8."""

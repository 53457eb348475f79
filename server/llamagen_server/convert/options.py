"""Options of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ConvertOptions:
    """Options of `llamagen_server.convert.convert.convert`.

    Each is the flag of ``llamagen convert`` of the same name, and error messages use the flag's name. Sampling
    parameters that are None get the defaults of the official sampler.
    """

    gpt_ckpt: str | Path
    """GPT checkpoint, official (``c2i_*.pt``, ``t2i_*.pt``) or of your own training: a file of torch or safetensors,
    the index of a sharded one, or a folder whose ``config.json`` may state ``ModelArgs`` fields."""
    vq_ckpt: str | Path
    """Checkpoint of the image tokenizer, official (``vq_ds16_c2i.pt``, ...) or of your own training, in the same forms;
    may be the same file or folder as ``gpt_ckpt``."""
    out: str | Path
    """Model directory to make; must be new or empty."""
    text_encoder: str | Path | None = None
    """Directory or Hugging Face id of a T5 or CLIP text encoder; required for text models only."""
    gpt_config: str | Path | None = None
    """JSON file with the official ``ModelArgs`` fields that the checkpoint lacks (``n_head``, ...)."""
    vq_config: str | Path | None = None
    """JSON file with the official VQ ``ModelArgs`` fields, ``ch`` and ``num_res_blocks``, for an image tokenizer whose
    shape was not released."""
    weights: str | None = None
    """``model`` or ``ema``: which weights to use of a checkpoint that has both. None is the order of the official code:
    ``model`` for the GPT checkpoint, ``ema`` for the image tokenizer. One of the checkpoints must have the chosen one;
    the other is used as it is if it does not."""
    image_size: int | None = None
    """Side of the images in pixels, if the checkpoint does not state it."""
    labels: str | Path | None = None
    """JSON file with the names of the classes, for class models."""
    clean_caption: bool = True
    """Whether captions are cleaned as in the official code before they are encoded."""
    dtype: str | None = None
    """Data type of the GPT weights: float32, bfloat16 or float16; None keeps that of the checkpoint."""
    cfg_scale: float | None = None
    cfg_min_p: float | None = None
    cfg_interval: int | None = None
    cfg_schedule: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

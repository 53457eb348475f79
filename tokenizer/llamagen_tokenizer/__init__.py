"""The VQ image tokenizer of LlamaGen: encodes images to codes and decodes codes to images."""

from llamagen_tokenizer.checkpoint import load_vq, load_vq_pt, save_vq
from llamagen_tokenizer.checkpoint_files import CheckpointError
from llamagen_tokenizer.config import CONFIGS, VQConfig
from llamagen_tokenizer.model import VQModel, from_uint8, to_uint8

__all__ = [
    "CONFIGS",
    "CheckpointError",
    "VQConfig",
    "VQModel",
    "from_uint8",
    "load_vq",
    "load_vq_pt",
    "save_vq",
    "to_uint8",
]

"""``ModelDir``: a model directory, checked as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from llamagen_server.core.sampling import SamplingDefaults
from llamagen_server.model_dir.encoder_files import check_encoder
from llamagen_server.model_dir.generation_config import read_defaults
from llamagen_server.model_dir.json_file import read_object
from llamagen_server.model_dir.labels import IMAGENET_CLASSES, Labels, imagenet_labels, read_labels
from llamagen_server.model_dir.tensor_files import difference, read_tensors, stored_shapes, vq_shapes
from llamagen_tokenizer import VQConfig
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.weights import CAPTION_PROJECTION, check_shapes

ARCHITECTURES = ["LlamaGenForCausalLM"]
DTYPES = ("float32", "bfloat16", "float16")
_SIZES = (
    "dim", "n_layer", "n_head", "n_kv_head", "ffn_hidden_dim", "codebook_size", "grid_size", "num_classes",
    "cls_token_num", "caption_dim",
)  # fmt: skip


class ModelDirError(ValueError):
    """A model directory that cannot be served. The message is one line that names the file and the fault."""


@dataclass(frozen=True)
class ModelDir:
    """A directory as ``llamagen convert`` makes it: configs, weights, image tokenizer and text encoder."""

    path: Path
    config: LlamaGenConfig
    vq_config: VQConfig
    defaults: SamplingDefaults
    """Sampling parameters for requests that leave them out."""
    text_encoder: str | None
    """Directory or Hugging Face id of the text encoder; None for class models."""
    labels: Labels | None
    """Class id -> names; None if the model has no names."""

    @classmethod
    def open(cls, path: str | Path) -> ModelDir:
        """Opens and checks a directory. It is quick: only the headers of the weight files are read.

        Raises:
            ModelDirError: the directory is missing, incomplete or damaged.
        """
        path = Path(path)
        try:
            return cls._open(path)
        except ValueError as error:
            raise ModelDirError(str(error)) from None
        except OSError as error:
            raise ModelDirError(f"{error.filename or path}: cannot be read ({error.strerror})") from None

    @classmethod
    def _open(cls, path: Path) -> ModelDir:
        _check_directory(path)
        config = read_config(path / "config.json")
        check_shapes(stored_shapes(path), config, path)
        return cls(
            path=path,
            config=config,
            vq_config=_read_vq(path / "vq", config),
            defaults=read_defaults(path / "generation_config.json", config.condition),
            text_encoder=_find_text_encoder(path, config),
            labels=_find_labels(path / "labels.json", config),
        )

    @property
    def vq_path(self) -> Path:
        """Directory of the image tokenizer."""
        return self.path / "vq"

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return int(self.config.grid_size * self.vq_config.downsample)

    @property
    def num_vq_parameters(self) -> int:
        """Number of weights of the image tokenizer."""
        return sum(math.prod(shape) for shape in vq_shapes(self.vq_config).values())

    def caption_projection_weights(self) -> dict[str, Tensor]:
        """Reads the tensors of a text model's `vllm_llamagen.caption_projection.CaptionProjection`."""
        return read_tensors(self.path, CAPTION_PROJECTION)


def read_config(path: Path) -> LlamaGenConfig:
    """Reads ``config.json``.

    Raises:
        ValueError: it is no LlamaGen config, or a field has a value that is not allowed; the message names the file.
    """
    values = read_object(path)
    _expect(path, "model_type", values.get("model_type"), [LlamaGenConfig.model_type])
    _expect(path, "architectures", values.get("architectures"), [ARCHITECTURES])
    _expect(path, "dtype", values.get("dtype", "float32"), DTYPES)
    for name in _SIZES:
        size = values.get(name, 1)
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{path}: {name} is {size!r}, must be a positive integer")
    try:
        return LlamaGenConfig(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _check_directory(path: Path) -> None:
    if path.is_dir():
        return
    problem = "is a file" if path.exists() else "does not exist"
    raise ValueError(
        f"{path} {problem}; a model is a directory with config.json, model.safetensors and vq/, "
        "which `llamagen convert` makes from checkpoints; `llamagen models` lists official ones by name"
    )


def _read_vq(path: Path, config: LlamaGenConfig) -> VQConfig:
    source = path / "config.json"
    values = read_object(source)
    try:
        vq_config = VQConfig.from_dict(values)
        expected = vq_shapes(vq_config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{source}: {str(error).splitlines()[0]}") from None
    if problem := difference(stored_shapes(path), expected):
        raise ValueError(f"{path}: {problem}")
    if vq_config.codebook_size != config.codebook_size:
        raise ValueError(
            f"{source}: codebook_size is {vq_config.codebook_size}, the model has {config.codebook_size} codes"
        )
    return vq_config


def _find_text_encoder(path: Path, config: LlamaGenConfig) -> str | None:
    if config.condition == "class":
        return None
    directory = path / "text_encoder"
    if directory.is_dir():
        check_encoder(directory, config.caption_dim)
        return str(directory)
    if not config.text_encoder:
        raise ValueError(f"{directory}: no such directory, and config.json names no text_encoder to download")
    return str(config.text_encoder)


def _find_labels(path: Path, config: LlamaGenConfig) -> Labels | None:
    """Returns the labels of the directory; without a file, ImageNet's for a class model of as many classes."""
    if config.condition == "text":
        return None
    if path.exists():
        return read_labels(path, config.num_classes) or None
    return imagenet_labels() if config.num_classes == IMAGENET_CLASSES else None


def _expect(path: Path, name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{path}: {name} is {value!r}, must be {' or '.join(repr(a) for a in allowed)}")

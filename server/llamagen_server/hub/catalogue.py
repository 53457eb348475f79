"""The official checkpoints: their names here, their files on the Hugging Face hub, and their authors' figures.

Sources: README and GETTING_STARTED.md of github.com/FoundationVision/LlamaGen at commit ce98ec4 (files, FID, scales),
and the hub's pages of the two repositories at the revisions below (checksums, licences). Inception scores are those of
arXiv 2406.06525 as later papers quote them (RAR, IAR, IDEAL); issue 48 of the repository has that of c2i-B-256 at scale
2. A figure that is None was not found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vllm_llamagen.config import LlamaGenConfig

BFLOAT16 = 2
FLOAT32 = 4
"""Bytes of a value."""

TEXT_ENCODER = "google/flan-t5-xl"
"""Text encoder of the official text models."""
TEXT_ENCODER_PARAMETERS = 1_223_527_424
"""Weights of its encoder alone, which is all that is loaded."""

LICENCE = "MIT"
"""Licence of both repositories, as their pages on the hub state it."""


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub."""

    repo: str
    revision: str
    name: str
    sha256: str | None
    """Checksum of the file; None if only the hub itself states it."""


@dataclass(frozen=True)
class NamedTokenizer:
    """An official image tokenizer."""

    file: HubFile
    config: str
    """Its name in `llamagen_tokenizer.CONFIGS`."""
    rfid: float | None
    """The authors' reconstruction FID on ImageNet's validation images of 256 pixels."""

    @property
    def downsample(self) -> int:
        """Pixels per image token along one side."""
        from llamagen_tokenizer import CONFIGS

        return CONFIGS[self.config].downsample

    @property
    def parameters(self) -> int:
        from llamagen_server.model_dir.tensor_files import vq_shapes
        from llamagen_tokenizer import CONFIGS

        return sum(math.prod(shape) for shape in vq_shapes(CONFIGS[self.config]).values())


@dataclass(frozen=True)
class NamedModel:
    """An official class or text model."""

    file: HubFile
    tokenizer: str
    """Name of its image tokenizer in `TOKENIZERS`."""
    size: str
    """Its name in `vllm_llamagen.config.SIZES`."""
    condition: Literal["class", "text"]
    image_size: int
    """Side of the images in pixels."""
    fid: float | None = None
    """The authors' FID on ImageNet at 256 pixels; images of 384 pixels were resized for it."""
    inception_score: float | None = None
    cfg_scale: float | None = None
    """Guidance scale of these figures."""

    @property
    def text_encoder(self) -> str | None:
        return TEXT_ENCODER if self.condition == "text" else None

    @property
    def config(self) -> LlamaGenConfig:
        """The network, with 16 pixels per image token as all official ones."""
        from vllm_llamagen.config import SIZES, LlamaGenConfig

        size = SIZES[self.size]
        return LlamaGenConfig(
            condition=self.condition,
            dim=size.dim,
            n_layer=size.n_layer,
            n_head=size.n_head,
            n_kv_head=size.n_head,
            ffn_hidden_dim=size.ffn_hidden_dim,
            grid_size=self.image_size // 16,
            cls_token_num=120 if self.condition == "text" else 1,
        )

    @property
    def parameters(self) -> int:
        """Number of weights of the language model."""
        from vllm_llamagen.weights import official_shapes

        return sum(math.prod(shape) for shape in official_shapes(self.config).values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights on a GPU: language model and text encoder in bfloat16, image tokenizer in float32."""
        encoder = TEXT_ENCODER_PARAMETERS if self.text_encoder else 0
        return (self.parameters + encoder) * BFLOAT16 + TOKENIZERS[self.tokenizer].parameters * FLOAT32

    @property
    def kv_cache_bytes(self) -> int:
        """Bytes of KV cache of one guided image in bfloat16."""
        config = self.config
        values = config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2  # keys and values
        return values * config.max_position_embeddings * BFLOAT16


def _c2i(name: str, sha256: str | None) -> HubFile:
    return HubFile("FoundationVision/LlamaGen", "81e41139272c038412e4fe8f1c52a51ebbf95b8b", name, sha256)


def _t2i(name: str, sha256: str) -> HubFile:
    return HubFile("peizesun/llamagen_t2i", "276f5c5a3d915b922899a03f1912605531574747", name, sha256)


TOKENIZERS: Mapping[str, NamedTokenizer] = {
    "vq-ds16-c2i": NamedTokenizer(
        _c2i("vq_ds16_c2i.pt", "109aa8afb2cf3761eec23cdc8644154cb498f5ab7eef2a35264d25e5e0499f7d"), "VQ-16", 2.19
    ),
    "vq-ds8-c2i": NamedTokenizer(
        _c2i("vq_ds8_c2i.pt", "c70d2966ec012f378793214ff0755087e7c5fe6f035b469995143325dca4a4e3"), "VQ-8", 0.59
    ),
    "vq-ds16-t2i": NamedTokenizer(
        _t2i("vq_ds16_t2i.pt", "0e21fc1318e2e9ee641a07bdad0e20675e9ec35e6e3eb911d58b5d7a2cd8d4cb"), "VQ-16", None
    ),
}

MODELS: Mapping[str, NamedModel] = {
    "c2i-B-256": NamedModel(
        _c2i("c2i_B_256.pt", None),
        "vq-ds16-c2i", "B", "class", 256, fid=5.46, inception_score=193.6, cfg_scale=2.0,
    ),
    "c2i-B-384": NamedModel(
        _c2i("c2i_B_384.pt", "7ddf3a659b180e4339e4dab8802183ede1ea8f44c5cfd4359ab27bef979c17ad"),
        "vq-ds16-c2i", "B", "class", 384, fid=6.09, inception_score=182.5, cfg_scale=2.0,
    ),
    "c2i-L-256": NamedModel(
        _c2i("c2i_L_256.pt", "15fe788b9c0e8dfe36f3e3fd701b44d0c934e4fd94a0ab599b69669aa8f44a55"),
        "vq-ds16-c2i", "L", "class", 256, fid=3.80, inception_score=248.3,
    ),
    "c2i-L-384": NamedModel(
        _c2i("c2i_L_384.pt", "9b8cb63634d11e684b4a68017abffff6698752ef715058a77e5e089539ebc39a"),
        "vq-ds16-c2i", "L", "class", 384, fid=3.07, inception_score=256.1, cfg_scale=2.0,
    ),
    "c2i-XL-384": NamedModel(
        _c2i("c2i_XL_384.pt", "736cb92bebdcb16737dbd35210a07ae4f7fd001cdfd55b26205d89182d1807ba"),
        "vq-ds16-c2i", "XL", "class", 384, fid=2.62, inception_score=244.1, cfg_scale=1.75,
    ),
    "c2i-XXL-384": NamedModel(
        _c2i("c2i_XXL_384.pt", "cba5a780b9d2394386e7410c630bced3a70e109cf7107e1783c9a986e9e7754e"),
        "vq-ds16-c2i", "XXL", "class", 384, fid=2.34, inception_score=253.9, cfg_scale=1.75,
    ),
    "c2i-3B-384": NamedModel(
        _c2i("c2i_3B_384.pt", "1e9173ecbe81295b1d80b021b2bf57ed4ef089601b6745336ff20a9f382c4cac"),
        "vq-ds16-c2i", "3B", "class", 384, fid=2.18, inception_score=263.3, cfg_scale=1.65,
    ),
    "t2i-XL-stage1-256": NamedModel(
        _t2i("t2i_XL_stage1_256.pt", "87d94b9b11cd80f44bd69122a4d4ed28304956e0fba07edcafce08c7a2716600"),
        "vq-ds16-t2i", "XL", "text", 256,
    ),
    "t2i-XL-stage2-512": NamedModel(
        _t2i("t2i_XL_stage2_512.pt", "7d02d368751c21b61dc3914b0ccba70fc913dafc063dd5b16bc9abf7091f8be1"),
        "vq-ds16-t2i", "XL", "text", 512,
    ),
}  # fmt: skip

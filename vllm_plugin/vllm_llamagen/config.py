"""Configuration of a LlamaGen language model: the network's shape, and the shape that vLLM sees."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

from transformers import PreTrainedConfig

ATTENTION_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256)
"""Head sizes that vLLM's attention kernels support on CPU and GPU. Others are padded with zeros (3B: 100 to 112)."""


class Size(NamedTuple):
    """Shape of a released network."""

    n_layer: int
    n_head: int
    dim: int

    @property
    def ffn_hidden_dim(self) -> int:
        return ffn_hidden_dim(self.dim)


SIZES = {
    "B": Size(12, 12, 768),
    "L": Size(24, 16, 1024),
    "XL": Size(36, 20, 1280),
    "XXL": Size(48, 24, 1536),
    "XXXL": Size(48, 40, 2560),
    "1B": Size(22, 32, 2048),
    "3B": Size(24, 32, 3200),
    "7B": Size(32, 32, 4096),
}
"""The official sizes (``GPT_models`` in ``gpt.py``)."""


def ffn_hidden_dim(dim: int, multiple_of: int = 256, multiplier: float | None = None) -> int:
    """Width of the feed-forward layers: 8/3 * dim, times ``multiplier``, rounded up to ``multiple_of``.

    Source: ``FeedForward`` in the official ``gpt.py``.
    """
    hidden = int(2 * 4 * dim / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return -(-hidden // multiple_of) * multiple_of


class LlamaGenConfig(PreTrainedConfig):
    """``config.json`` of a model directory.

    The fields describe the network of one branch, under the names of ``ModelArgs`` in the official ``gpt.py``. The
    properties are what vLLM reads. A token carries ``cfg_branches`` branches (conditional and unconditional), so vLLM
    sees that many times the heads and that many times the width of an input embedding.

    The vocabulary is the codebook followed by the condition tokens: ids ``0 .. codebook_size - 1`` are codes. In a
    class model ``codebook_size + c`` is class ``c`` and the last id means "no class". In a text model
    ``codebook_size`` marks a text position, whose embedding comes with the request.

    Raises:
        ValueError: a field has a value that is not allowed, or two fields contradict each other.
    """

    model_type: ClassVar[str] = "llamagen"

    condition: Literal["class", "text"] = "class"
    dim: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int = 12
    ffn_hidden_dim: int = 2048
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    codebook_size: int = 16384
    grid_size: int = 16
    num_classes: int = 1000
    cls_token_num: int = 1
    caption_dim: int = 2048
    cfg_branches: int = 2
    text_encoder: str | None = None
    clean_caption: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.condition not in ("class", "text"):
            raise ValueError(f"condition is {self.condition!r}, must be 'class' or 'text'")
        if self.cfg_branches not in (1, 2):
            raise ValueError(f"cfg_branches is {self.cfg_branches}, must be 1 or 2")
        if self.dim % self.n_head or (self.dim // self.n_head) % 4:
            raise ValueError(f"dim {self.dim} is not n_head {self.n_head} times a multiple of 4")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}")

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> LlamaGenConfig:
        """Returns this config: transformers would mistake the name in ``text_encoder`` for a nested config."""
        return self

    @property
    def branch_head_dim(self) -> int:
        """Size of an attention head of the network."""
        return self.dim // self.n_head

    @property
    def num_image_tokens(self) -> int:
        """Number of image tokens. LlamaGen has no end token: every image has exactly this many."""
        return self.grid_size**2

    @property
    def step_weights(self) -> int:
        """Number of weights that one decode step reads: all but the embeddings."""
        attention = self.dim * self.branch_head_dim * (2 * self.n_head + 2 * self.n_kv_head)
        return self.n_layer * (attention + 3 * self.dim * self.ffn_hidden_dim) + self.dim * self.codebook_size

    @property
    def num_condition_ids(self) -> int:
        """Number of vocabulary ids after the codebook."""
        return self.num_classes + 1 if self.condition == "class" else 1

    @property
    def head_dim(self) -> int:
        """Size of an attention head in vLLM's KV cache: `branch_head_dim`, padded to a supported size."""
        for size in ATTENTION_HEAD_DIMS:
            if size >= self.branch_head_dim:
                return size
        raise ValueError(f"head size {self.branch_head_dim} is above {ATTENTION_HEAD_DIMS[-1]}, the largest supported")

    @property
    def can_join_heads(self) -> bool:
        """Whether the heads of both branches can be one head of twice the size, which vLLM's kernels must support."""
        return self.cfg_branches == 2 and self.n_head == self.n_kv_head and 2 * self.head_dim in ATTENTION_HEAD_DIMS

    @property
    def hidden_size(self) -> int:
        return self.dim

    @property
    def projection_dim(self) -> int:
        """Width of one token's input embedding: all branches side by side."""
        return self.cfg_branches * self.dim

    @property
    def num_hidden_layers(self) -> int:
        return self.n_layer

    @property
    def num_attention_heads(self) -> int:
        return self.cfg_branches * self.n_head

    @property
    def num_key_value_heads(self) -> int:
        return self.cfg_branches * self.n_kv_head

    @property
    def vocab_size(self) -> int:
        return self.codebook_size + self.num_condition_ids

    @property
    def max_position_embeddings(self) -> int:
        return self.cls_token_num + self.num_image_tokens

    @property
    def mrope_section(self) -> list[int] | None:
        """Makes vLLM ask the model for positions: all text tokens share position 0 (see `LlamaGenForCausalLM`)."""
        return [1, 1, 1] if self.condition == "text" else None

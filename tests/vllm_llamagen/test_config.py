"""The config: the shape that vLLM sees, and fields that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_llamagen.config import SIZES, LlamaGenConfig


def test_vllm_sees_both_branches() -> None:
    config = LlamaGenConfig()
    assert (config.num_attention_heads, config.num_key_value_heads, config.projection_dim) == (24, 24, 1536)
    assert (config.vocab_size, config.max_position_embeddings, config.num_image_tokens) == (16384 + 1001, 257, 256)
    config.cfg_branches = 1
    assert (config.num_attention_heads, config.projection_dim) == (12, 768)


def test_only_text_models_have_their_own_positions() -> None:
    assert LlamaGenConfig().mrope_section is None
    assert LlamaGenConfig(condition="text").mrope_section is not None


def test_heads_are_padded_to_a_supported_size() -> None:
    three_b = LlamaGenConfig(**SIZES["3B"]._asdict(), n_kv_head=32)
    assert (three_b.branch_head_dim, three_b.head_dim) == (100, 112)
    assert LlamaGenConfig().head_dim == LlamaGenConfig().branch_head_dim == 64


def test_heads_of_both_branches_are_joined_where_the_kernels_support_twice_the_size() -> None:
    assert LlamaGenConfig().can_join_heads
    assert not LlamaGenConfig(cfg_branches=1).can_join_heads
    assert not LlamaGenConfig(n_kv_head=6).can_join_heads
    assert not LlamaGenConfig(dim=160 * 12).can_join_heads  # 320 is no size of theirs


def test_official_sizes() -> None:
    widths = {name: size.ffn_hidden_dim for name, size in SIZES.items()}
    assert widths == {
        "B": 2048, "L": 2816, "XL": 3584, "XXL": 4096, "XXXL": 6912, "1B": 5632, "3B": 8704, "7B": 11008,
    }  # fmt: skip


def test_the_name_of_a_text_encoder_is_no_nested_config(tmp_path: Path) -> None:
    config = LlamaGenConfig(condition="text", text_encoder="google/flan-t5-xl")
    assert config.get_text_config() is config
    config.save_pretrained(tmp_path)
    assert LlamaGenConfig.from_pretrained(tmp_path).text_encoder == "google/flan-t5-xl"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"condition": "image"}, "condition"),
        ({"cfg_branches": 3}, "cfg_branches is 3, must be 1 or 2"),
        ({"dim": 770}, "dim 770 is not n_head 12 times a multiple of 4"),
        ({"n_kv_head": 5}, "n_head 12 is not a multiple of n_kv_head 5"),
    ],
)
def test_bad_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        LlamaGenConfig(**fields)

"""The config of a checkpoint, inferred from the shapes of its tensors (no tensor is made here)."""

from dataclasses import replace
from typing import Any

import pytest

from llamagen_server.convert.config import infer_config
from llamagen_server.convert.grid import Hints
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.weights import official_shapes

# GPT_models of the official gpt.py, and find_multiple(int(2 * 4 * dim / 3), 256)
OFFICIAL = {
    "B": (768, 12, 12, 2048), "L": (1024, 24, 16, 2816), "XL": (1280, 36, 20, 3584), "XXL": (1536, 48, 24, 4096),
    "XXXL": (2560, 48, 40, 6912), "1B": (2048, 22, 32, 5632), "3B": (3200, 24, 32, 8704), "7B": (4096, 32, 32, 11008),
}  # fmt: skip

CLASS = LlamaGenConfig()
TEXT = LlamaGenConfig(condition="text", cls_token_num=120, caption_dim=2048)
GQA = LlamaGenConfig(n_kv_head=4)
TINY = LlamaGenConfig(dim=128, n_layer=3, n_head=4, n_kv_head=4, ffn_hidden_dim=96)
HINTS = Hints("ckpt.pt", 16, image_size=256)


def infer(config: LlamaGenConfig, hints: Hints = HINTS, **changed: Any) -> LlamaGenConfig:
    """Infers the config of a checkpoint with the shapes of ``config``.

    Args:
        changed: tensor name -> another shape, or None for a missing tensor.
    """
    shapes = official_shapes(config)
    for name, shape in changed.items():
        shapes.pop(name, None)
        if shape is not None:
            shapes[name] = shape
    return infer_config(shapes, hints, "bfloat16")


@pytest.mark.parametrize("size", OFFICIAL)
def test_official_class_models(size: str) -> None:
    dim, n_layer, n_head, ffn = OFFICIAL[size]
    config = infer(LlamaGenConfig(dim=dim, n_layer=n_layer, n_head=n_head, n_kv_head=n_head, ffn_hidden_dim=ffn))
    assert (config.dim, config.n_layer, config.n_head, config.n_kv_head) == (dim, n_layer, n_head, n_head)
    assert (config.ffn_hidden_dim, config.codebook_size, config.num_classes) == (ffn, 16384, 1000)
    assert (config.condition, config.cls_token_num, config.grid_size) == ("class", 1, 16)
    assert config.architectures == ["LlamaGenForCausalLM"]
    assert str(config.dtype).removeprefix("torch.") == "bfloat16"


def test_official_text_model() -> None:
    config = infer(TEXT)
    assert (config.condition, config.cls_token_num, config.caption_dim) == ("text", 120, 2048)


def test_model_args_that_agree() -> None:
    args = {
        "dim": 768, "n_layer": 12, "n_head": 12, "n_kv_head": None, "multiple_of": 256, "ffn_dim_multiplier": None,
        "rope_base": 5000, "norm_eps": 1e-6, "num_classes": 1000, "caption_dim": 2048, "model_type": "c2i",
        "vocab_size": 16384, "cls_token_num": 1, "block_size": 256, "token_dropout_p": 0.1, "max_seq_len": 2048,
    }  # fmt: skip
    config = infer(CLASS, Hints("ckpt.pt", 16, args))
    assert (config.rope_base, config.norm_eps, config.grid_size) == (5000.0, 1e-6, 16)
    assert infer(GQA, Hints("ckpt.pt", 16, {"n_kv_head": 4, "block_size": 64})).n_kv_head == 4


def test_head_count_of_another_dim() -> None:
    with pytest.raises(ValueError, match=r"ckpt.pt: dim is 128, no official size, so its n_head must .*--gpt-config"):
        infer(TINY)
    assert infer(TINY, replace(HINTS, model_args={"n_head": 4})).n_head == 4


@pytest.mark.parametrize(
    ("config", "args", "message"),
    [
        (CLASS, {"dim": 1024}, "dim is 1024 in --gpt-config, but 768 in ckpt.pt"),
        (CLASS, {"n_layer": 24}, "n_layer is 24 in --gpt-config, but 12 in"),
        (CLASS, {"n_kv_head": 4}, "n_kv_head is 4 in --gpt-config, but 12 in"),
        (GQA, {"n_kv_head": None}, "n_kv_head is 12 in --gpt-config, but 4 in"),
        (CLASS, {"vocab_size": 512}, "vocab_size is 512 in --gpt-config, but 16384 in"),
        (CLASS, {"num_classes": 10}, "num_classes is 10 in --gpt-config, but 1000 in"),
        (CLASS, {"model_type": "t2i"}, "model_type is 't2i' in --gpt-config, but 'c2i' in"),
        (TEXT, {"model_type": "c2i"}, "model_type is 'c2i' in --gpt-config, but 't2i' in"),
        (TEXT, {"cls_token_num": 77}, "cls_token_num is 77 in --gpt-config, but 120 in"),
        (TEXT, {"caption_dim": 768}, "caption_dim is 768 in --gpt-config, but 2048 in"),
        (CLASS, {"ffn_dim_multiplier": 2.0}, "--gpt-config implies 4096 FFN channels, but ckpt.pt has 2048"),
        (CLASS, {"n_heads": 12}, "unknown field n_heads in --gpt-config; known: block_size, .*, n_head, "),
        (CLASS, {"n_head": 5}, "n_head is 5, must divide dim 768"),
        (CLASS, {"n_head": "12"}, "n_head is '12', must divide dim 768"),
        (CLASS, {"n_head": 384}, "dim 768 is not n_head 384 times a multiple of 4"),
        (GQA, {"n_head": 16}, "wqkv.weight has 1280 rows, which does not fit n_head 16 of size 48"),
        (CLASS, {"rope_base": 0}, "rope_base is 0 in --gpt-config, must be a positive number"),
        (CLASS, {"norm_eps": "x"}, "norm_eps is 'x' in --gpt-config, must be a positive number"),
        (CLASS, {"block_size": 0}, "block_size in --gpt-config is 0, must be a positive integer"),
    ],
)
def test_model_args_that_disagree(config: LlamaGenConfig, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infer(config, replace(HINTS, model_args=args))


TABLE, UNCOND = "cls_embedding.embedding_table.weight", "cls_embedding.uncond_embedding"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"norm.weight": None}, "ckpt.pt: 1 tensors are missing, first norm.weight"),
        ({"layers.7.ffn_norm.weight": None}, "1 tensors are missing, first layers.7.ffn_norm.weight"),
        ({"layers.99.ffn_norm.weight": [768]}, "tensors are missing, first layers.12.attention.wqkv.weight"),
        ({"extra.bias": [1]}, "1 unexpected tensors, first extra.bias"),
        ({"output.weight": [512, 768]}, r"output.weight has shape \[512, 768\], the config asks for \[16384, 768\]"),
        ({"tok_embeddings.weight": None}, "not a LlamaGen GPT checkpoint, tok_embeddings.weight is missing"),
        ({"tok_embeddings.weight": [16384]}, r"tok_embeddings.weight has shape \[16384\], expected two dimensions"),
        ({"layers.0.attention.wqkv.weight": [2300, 768]}, "wqkv.weight has 2300 rows, which does not fit n_head 12"),
        ({"layers.0.attention.wqkv.weight": [768, 768]}, "wqkv.weight has 768 rows, which does not fit n_head 12"),
        ({TABLE: None}, "expected one of .*embedding_table.weight .c2i. and .*uncond_embedding .t2i."),
        ({UNCOND: [120, 64]}, "expected one of"),
    ],
)
def test_tensors_that_do_not_fit(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infer(CLASS, **changed)


@pytest.mark.parametrize("config", [CLASS, TEXT])
def test_buffers_are_dropped_and_determine_the_grid(config: LlamaGenConfig) -> None:
    positions = config.cls_token_num + 24 * 24
    buffers = {
        "freqs_cis": [positions, 32, 2],
        "layers.3.attention.freqs_cis": [positions, 32, 2],
        "layers.0.attention.kv_cache.k_cache": [2, 12, 584, 64],
        "layers.0.attention.kv_cache.v_cache": [2, 12, 584, 64],
    }
    assert infer(config, Hints("ckpt.pt", 16), **buffers).grid_size == 24
    with pytest.raises(ValueError, match="--image-size 256 gives 256 image tokens, but freqs_cis gives 576"):
        infer(config, **buffers)


def test_rotary_table_of_other_heads() -> None:
    with pytest.raises(ValueError, match="freqs_cis has heads of size 64, but n_head 6 means size 128"):
        infer(CLASS, replace(HINTS, model_args={"n_head": 6}), freqs_cis=[257, 32, 2])


@pytest.mark.parametrize(
    ("file", "downsample", "grid"),
    [
        ("c2i_B_256.pt", 16, 16),
        ("some/dir/c2i_XXL_384.pt", 16, 24),
        ("c2i_3B_384.pt", 16, 24),
        ("t2i_XL_stage1_256.pt", 16, 16),
        ("t2i_XL_stage2_512.pt", 16, 32),
    ],
)
def test_grid_by_official_file_name(file: str, downsample: int, grid: int) -> None:
    assert infer(CLASS, Hints(file, downsample)).grid_size == grid


@pytest.mark.parametrize("file", ["ckpt.pt", "c2i_B_256_finetuned.pt", "0300000.pt", "my_c2i_B_256.pt", "c2i_B_100.pt"])
def test_grid_that_no_source_states(file: str) -> None:
    with pytest.raises(ValueError, match=r"does not state the size of its images; give it with --image-size"):
        infer(CLASS, Hints(file, 16))


def test_the_file_name_counts_only_with_16_pixels_per_image_token() -> None:
    """All released networks have 16x16 image tokens for 256 pixels."""
    with pytest.raises(ValueError, match=r"c2i_L_256\.pt: the checkpoint does not state the size of its images"):
        infer(CLASS, Hints("c2i_L_256.pt", 8))


def test_grid_by_trainer_arguments() -> None:
    trained = {"image_size": 384, "downsample_size": 16, "gpt_model": "GPT-B"}
    assert infer(CLASS, Hints("c2i_B_256.pt", 16, trainer_args=trained)).grid_size == 24
    with pytest.raises(ValueError, match="tokenizer of downsample_size 16, the one given has 8"):
        infer(CLASS, Hints("ckpt.pt", 8, trainer_args=trained))
    with pytest.raises(
        ValueError, match="--image-size 256 gives 256 image tokens, but the trainer's command line gives 576"
    ):
        infer(CLASS, replace(HINTS, trainer_args=trained))
    with pytest.raises(ValueError, match="image_size is 'big', must be a positive integer"):
        infer(CLASS, Hints("ckpt.pt", 16, trainer_args=trained | {"image_size": "big"}))


def test_grid_by_flags() -> None:
    assert infer(CLASS, Hints("c2i_B_256.pt", 16, image_size=512)).grid_size == 32
    with pytest.raises(
        ValueError, match="--image-size 256 gives 256 image tokens, but block_size in --gpt-config gives 64"
    ):
        infer(CLASS, replace(HINTS, model_args={"block_size": 64}))
    with pytest.raises(
        ValueError, match="block_size in --gpt-config gives 250 image tokens, which is not a square grid"
    ):
        infer(CLASS, Hints("ckpt.pt", 16, {"block_size": 250}))
    for size in (0, -16, 250):
        with pytest.raises(ValueError, match=f"--image-size is {size}, must be a positive multiple of 16"):
            infer(CLASS, replace(HINTS, image_size=size))

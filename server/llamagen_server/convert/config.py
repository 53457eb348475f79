"""Infers the config of an official GPT checkpoint from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llamagen_server.convert.grid import Hints, find_grid
from llamagen_server.model_dir.tensor_files import Shapes
from llamagen_tokenizer.other_names import LANTERN, Naming
from vllm_llamagen.config import SIZES, LlamaGenConfig, ffn_hidden_dim
from vllm_llamagen.weights import check_shapes

N_HEAD = {size.dim: size.n_head for size in SIZES.values()}
"""Number of attention heads of the official sizes, by dim."""

TRAINING_ARGS = {
    "initializer_range", "token_dropout_p", "attn_dropout_p", "resid_dropout_p", "ffn_dropout_p", "drop_path_rate",
    "class_dropout_prob", "max_batch_size", "max_seq_len",
}  # fmt: skip
"""Fields of the official ``ModelArgs`` that only concern training; they are ignored."""

NETWORK_ARGS = {
    "dim", "n_layer", "n_head", "n_kv_head", "multiple_of", "ffn_dim_multiplier", "rope_base", "norm_eps",
    "num_classes", "caption_dim", "model_type", "vocab_size", "cls_token_num", "block_size", "tie_word_embeddings",
}  # fmt: skip
"""Fields of the official ``ModelArgs`` that describe the network, and Hugging Face's name for tied embeddings."""

LANTERN_ARGS = {
    "dim": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads", "norm_eps": "rms_norm_eps", "model_type": "input_type",
}  # fmt: skip
"""Fields of ``ModelArgs`` that have another name in a config of LANTERN's."""

MODEL_TYPES = {"class": "c2i", "text": "t2i"}
"""Official ``model_type``, by condition."""

_CLASS_TABLE = "cls_embedding.embedding_table.weight"
_UNCOND = "cls_embedding.uncond_embedding"


def infer_config(shapes: Shapes, hints: Hints, dtype: str) -> LlamaGenConfig:
    """Builds the config of a checkpoint.

    Args:
        shapes: shape of every tensor of the file, buffers (`is_buffer`) included.
        dtype: dtype of the weights, such as ``bfloat16``.

    Raises:
        ValueError: not a LlamaGen checkpoint, a value that the file lacks (the message names the flag to pass), or a
            conflict with ``hints.model_args`` (the message names both values).
    """
    args = hints.model_args
    _check_names(args)
    codebook_size, dim = _shape(shapes, "tok_embeddings.weight", hints.file)
    n_head = _n_head(shapes, dim, hints)
    condition = _condition(shapes, hints.file)
    inferred: dict[str, Any] = {
        **condition,
        "codebook_size": codebook_size,
        "dim": dim,
        "n_layer": len({name.split(".")[1] for name in shapes if name.startswith("layers.")}),
        "n_head": n_head,
        "n_kv_head": _n_kv_head(shapes, dim, n_head, hints.file),
        "ffn_hidden_dim": _shape(shapes, "layers.0.feed_forward.w1.weight", hints.file)[0],
        "grid_size": find_grid(shapes, hints, condition["cls_token_num"]),
    }
    _check_args(inferred, hints)
    constants = {name: _positive_number(hints, name) for name in ("rope_base", "norm_eps") if name in args}
    config = LlamaGenConfig(**inferred, **constants, architectures=["LlamaGenForCausalLM"], dtype=dtype)
    check_shapes({name: shape for name, shape in shapes.items() if not is_buffer(name)}, config, hints.file)
    return config


def stated_args(config: Mapping[str, Any], naming: Naming | None = None) -> dict[str, Any]:
    """Returns the ``ModelArgs`` fields of a ``config.json``, which may have others and another kind of model_type.

    Args:
        naming: origin of the tensors' names beside it.
    """
    if naming is LANTERN:
        config = {**config, **{name: config[theirs] for name, theirs in LANTERN_ARGS.items() if theirs in config}}
    args = {name: config[name] for name in sorted(NETWORK_ARGS) if name in config}
    if args.get("model_type") not in MODEL_TYPES.values():
        args.pop("model_type", None)
    return args


def is_buffer(name: str) -> bool:
    """Whether a tensor is not a weight: some checkpoints hold the rotary table, or KV caches left by sampling."""
    return name.rsplit(".", 1)[-1] == "freqs_cis" or ".kv_cache." in name


def _shape(shapes: Shapes, name: str, file: str) -> tuple[int, int]:
    if name not in shapes:
        raise ValueError(f"{file}: not a LlamaGen GPT checkpoint, {name} is missing")
    if len(shapes[name]) != 2:
        raise ValueError(f"{file}: {name} has shape {list(shapes[name])}, expected two dimensions")
    rows, columns = shapes[name]
    return rows, columns


def _condition(shapes: Shapes, file: str) -> dict[str, Any]:
    if (_CLASS_TABLE in shapes) == (_UNCOND in shapes):
        raise ValueError(f"{file}: expected one of {_CLASS_TABLE} (c2i) and {_UNCOND} (t2i)")
    if _CLASS_TABLE in shapes:
        return {"condition": "class", "num_classes": _shape(shapes, _CLASS_TABLE, file)[0] - 1, "cls_token_num": 1}
    tokens, width = _shape(shapes, _UNCOND, file)
    return {"condition": "text", "cls_token_num": tokens, "caption_dim": width}


def _n_head(shapes: Shapes, dim: int, hints: Hints) -> int:
    n_head = hints.model_args.get("n_head", N_HEAD.get(dim))
    if n_head is None:
        raise ValueError(
            f"{hints.file}: dim is {dim}, no official size, so its n_head must be given with --gpt-config; "
            f"known are {', '.join(str(d) for d in N_HEAD)}"
        )
    if not isinstance(n_head, int) or isinstance(n_head, bool) or n_head <= 0 or dim % n_head:
        raise ValueError(f"{hints.file}: n_head is {n_head!r}, must divide dim {dim}")
    for name, shape in shapes.items():
        if name.rsplit(".", 1)[-1] == "freqs_cis" and len(shape) == 3 and 2 * shape[1] != dim // n_head:
            raise ValueError(
                f"{hints.file}: {name} has heads of size {2 * shape[1]}, but n_head {n_head} means size {dim // n_head}"
            )
    return n_head


def _n_kv_head(shapes: Shapes, dim: int, n_head: int, file: str) -> int:
    """Number of key/value heads. wqkv stacks n_head query, n_kv_head key and n_kv_head value heads."""
    name = "layers.0.attention.wqkv.weight"
    rows = _shape(shapes, name, file)[0]
    n_kv_head, rest = divmod(rows - dim, 2 * (dim // n_head))
    if rest or n_kv_head <= 0 or n_head % n_kv_head:
        raise ValueError(f"{file}: {name} has {rows} rows, which does not fit n_head {n_head} of size {dim // n_head}")
    return n_kv_head


def _check_names(args: Mapping[str, Any]) -> None:
    if unknown := sorted(args.keys() - NETWORK_ARGS - TRAINING_ARGS):
        raise ValueError(
            f"unknown field {', '.join(unknown)} in --gpt-config; known: {', '.join(sorted(NETWORK_ARGS))}"
        )


def _check_args(inferred: Mapping[str, Any], hints: Hints) -> None:
    """Compares the fields of ``ModelArgs`` with the values inferred from the weights."""
    args = hints.model_args
    expected = {name: inferred[name] for name in ("dim", "n_layer", "n_kv_head", "cls_token_num")}
    expected |= {name: inferred[name] for name in ("num_classes", "caption_dim") if name in inferred}
    expected |= {"vocab_size": inferred["codebook_size"], "model_type": MODEL_TYPES[inferred["condition"]]}
    if args.get("n_kv_head", ...) is None:  # null means as many as n_head
        args = {**args, "n_kv_head": inferred["n_head"]}
    for name, value in expected.items():
        if name in args and args[name] != value:
            raise ValueError(f"{name} is {args[name]!r} in {hints.args_source}, but {value!r} in {hints.file}")
    if not {"multiple_of", "ffn_dim_multiplier"}.isdisjoint(args):
        hidden = ffn_hidden_dim(inferred["dim"], *_ffn_args(hints))
        if hidden != (found := inferred["ffn_hidden_dim"]):
            raise ValueError(f"{hints.args_source} implies {hidden} FFN channels, but {hints.file} has {found}")


def _ffn_args(hints: Hints) -> tuple[int, float | None]:
    """Returns ``multiple_of`` and ``ffn_dim_multiplier``."""
    args = hints.model_args
    multiple_of = int(_positive_number(hints, "multiple_of")) if "multiple_of" in args else 256
    multiplier = args.get("ffn_dim_multiplier")
    return multiple_of, None if multiplier is None else _positive_number(hints, "ffn_dim_multiplier")


def _positive_number(hints: Hints, name: str) -> float:
    value = hints.model_args[name]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name} is {value!r} in {hints.args_source}, must be a positive number")
    return float(value)

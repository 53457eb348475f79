"""The tensors of a LlamaGen checkpoint: official names, shapes, and the matching parameters of the engine's model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from vllm_llamagen.config import LlamaGenConfig

CAPTION_PROJECTION = (
    "cls_embedding.cap_proj.fc1.weight",
    "cls_embedding.cap_proj.fc2.weight",
    "cls_embedding.uncond_embedding",
)
"""Tensors of a text model's `CaptionProjection`. The engine's model does not have them."""


def official_shapes(config: LlamaGenConfig) -> dict[str, list[int]]:
    """Returns the shape of every tensor of the official state dict, by name."""
    dim, ffn = config.dim, config.ffn_hidden_dim
    shapes = {
        "tok_embeddings.weight": [config.codebook_size, dim],
        "norm.weight": [dim],
        "output.weight": [config.codebook_size, dim],
    }
    if config.condition == "class":
        shapes["cls_embedding.embedding_table.weight"] = [config.num_classes + 1, dim]
    else:
        fc1, fc2, uncond = CAPTION_PROJECTION
        shapes |= {fc1: [dim, config.caption_dim], fc2: [dim, dim], uncond: [config.cls_token_num, config.caption_dim]}
    for i in range(config.n_layer):
        layer = f"layers.{i}"
        shapes |= {
            f"{layer}.attention.wqkv.weight": [dim + 2 * config.n_kv_head * config.branch_head_dim, dim],
            f"{layer}.attention.wo.weight": [dim, dim],
            f"{layer}.feed_forward.w1.weight": [ffn, dim],
            f"{layer}.feed_forward.w3.weight": [ffn, dim],
            f"{layer}.feed_forward.w2.weight": [dim, ffn],
            f"{layer}.attention_norm.weight": [dim],
            f"{layer}.ffn_norm.weight": [dim],
        }
    return shapes


def check_shapes(found: Mapping[str, Sequence[int]], config: LlamaGenConfig, source: object) -> None:
    """Compares the shapes of a checkpoint's tensors with those that the config implies.

    Raises:
        ValueError: a tensor is missing, unexpected or has another shape; the message names the first.
    """
    expected = official_shapes(config)
    if missing := [name for name in expected if name not in found]:
        raise ValueError(f"{source}: {len(missing)} tensors are missing, first {missing[0]}")
    if unexpected := sorted(set(found) - set(expected)):
        raise ValueError(f"{source}: {len(unexpected)} unexpected tensors, first {unexpected[0]}")
    for name, shape in expected.items():
        if list(found[name]) != shape:
            raise ValueError(f"{source}: {name} has shape {list(found[name])}, the config asks for {shape}")


def engine_weights(
    weights: Iterable[tuple[str, Tensor]], config: LlamaGenConfig
) -> Iterator[tuple[str, int | None, Tensor]]:
    """Yields (parameter of `LlamaGenForCausalLM`, shard of a merged layer or None, tensor) for the official tensors."""
    tables: dict[str, Tensor] = {}
    for name, tensor in weights:
        if name in CAPTION_PROJECTION:
            continue
        if name in ("tok_embeddings.weight", "cls_embedding.embedding_table.weight"):
            tables[name] = tensor
        elif name == "output.weight":
            yield name, None, tensor
        elif ".feed_forward.w1." in name:
            yield f"model.{name.replace('.w1.', '.w13.')}", 0, tensor
        elif ".feed_forward.w3." in name:
            yield f"model.{name.replace('.w3.', '.w13.')}", 1, tensor
        else:
            yield f"model.{name}", None, tensor
    codes = tables["tok_embeddings.weight"]
    conditions = tables.get("cls_embedding.embedding_table.weight", torch.zeros(config.num_condition_ids, config.dim))
    yield "model.embeddings.weight", None, torch.cat([codes, conditions.type_as(codes)])

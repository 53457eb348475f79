"""Names that other code gives the tensors of the same networks, and their official names."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Naming:
    """How names are recognised: both tensors are there, below the same prefix."""

    tensor: str
    """Name of a tensor that only this code gives."""
    beside: str
    """Start of a name beside it, which tells the network from others with such layers."""


LANTERN = Naming("layers.0.self_attn.q_proj.weight", "cls_embedding.")
"""Hugging Face's Llama as the language model (github.com/jadohu/LANTERN, ``modeling_llamagen_kv.py``). Its rotary
embedding turns neighbouring channels as the official code does, so the rows of q and k have the same order."""

TAMING = Naming("encoder.down.0.block.0.norm1.weight", "quantize.embedding.weight")
"""The VQGAN of taming-transformers and latent-diffusion (``VQModel``): the same image tokenizer, but for the codebook,
which is not l2-normalised."""

QKV = tuple(f".self_attn.{part}_proj.weight" for part in "qkv")
"""Ends of the names in LANTERN that together are one official tensor, ``wqkv``, in the order of its rows."""

_LANTERN_MODULES = {
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
    "self_attn.q_proj": "attention.wqkv",
    "self_attn.k_proj": "attention.wqkv",
    "self_attn.v_proj": "attention.wqkv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}

_TAMING_MIDDLE = {"block_1": "0", "attn_1": "1", "block_2": "2"}


def find_namings(names: Collection[str]) -> dict[str, Naming]:
    """Returns the prefixes below which names are not the official ones, each with the names' origin."""
    return {
        prefix: naming
        for naming in (LANTERN, TAMING)
        for prefix in (n.removesuffix(naming.tensor) for n in names if f".{n}".endswith(f".{naming.tensor}"))
        if any(name.startswith(prefix + naming.beside) for name in names)
    }


def official_names(names: Collection[str]) -> dict[str, str]:
    """Returns the official name of each; those in `QKV` of a layer have the same."""
    official = {name: name for name in names}
    for prefix, naming in find_namings(names).items():
        own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        levels = len({name.split(".")[2] for name in own if name.startswith("decoder.up.")})
        for name in own:
            renamed = _from_lantern(name) if naming is LANTERN else _from_taming(name, levels)
            if renamed != name:
                official[prefix + name] = prefix + renamed
    return official


def _from_lantern(name: str) -> str:
    match = re.fullmatch(r"(layers\.\d+\.)?(.+)\.weight", name)
    if not match or match[2] not in _LANTERN_MODULES:
        return name
    return f"{match[1] or ''}{_LANTERN_MODULES[match[2]]}.weight"


def _from_taming(name: str, levels: int) -> str:
    """The decoder's levels are numbered from the highest resolution there, officially from the lowest."""
    if match := re.fullmatch(r"((?:en|de)coder\.mid\.)(block_1|attn_1|block_2)(\..+)", name):
        return f"{match[1]}{_TAMING_MIDDLE[match[2]]}{match[3]}"
    if match := re.fullmatch(r"(encoder\.down|decoder\.up)\.(\d+)\.(block|attn|downsample|upsample)(\..+)", name):
        encoder = match[1] == "encoder.down"
        level = int(match[2]) if encoder else levels - 1 - int(match[2])
        kind = "res" if match[3] == "block" else match[3]
        return f"{'encoder' if encoder else 'decoder'}.conv_blocks.{level}.{kind}{match[4]}"
    return name

"""Finds the weights of a LlamaGen network in a checkpoint, wherever the training code put them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llamagen_tokenizer.checkpoint_files import EMA_ENTRY, WEIGHT_ENTRIES, CheckpointError
from llamagen_tokenizer.other_names import QKV, Naming, find_namings, official_names

WRAPPERS = frozenset(
    ("_orig_mod", "module", "model", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
)
"""Parts of a tensor's name that wrappers add, at its start or inside: torch.compile, DDP and DeepSpeed, FSDP,
activation checkpointing, Lightning, and modules with the network as ``self.model``. No official name has such a part.
"""

KINDS = ("model", "ema")
"""Kinds of weights: those that were trained, and their moving average."""


@dataclass(frozen=True)
class Network:
    """How the weights of a network are found."""

    title: str
    entries: tuple[str, ...]
    """Entries of a checkpoint that may hold the weights, in the order of the official code."""
    tensor: str
    """Official name of a tensor that every checkpoint of this network has, and of no other network."""
    training: tuple[str, ...] = ()
    """Modules that only training needs, which may be inside the network."""


GPT = Network("a GPT checkpoint", (*WEIGHT_ENTRIES, EMA_ENTRY), "layers.0.attention.wqkv.weight")
"""The language model. The official samplers (``sample_c2i.py``, ``sample_t2i.py``) do not look for ``ema``."""

VQ = Network("an image tokenizer", (EMA_ENTRY, *WEIGHT_ENTRIES), "quantize.embedding.weight", ("loss",))
"""The image tokenizer. The order is that of the official ``vq_demo.py``."""

NETWORKS = (GPT, VQ)

_MAX_DEPTH = 3
"""Number of entries inside one another that may lead to a state dict."""


@dataclass(frozen=True)
class StateDict:
    """The weights of one network."""

    tensors: dict[str, Tensor]
    """By official name; those of other networks in the same checkpoint are left out."""
    kind: str
    """One of `KINDS`; ``model`` if the checkpoint does not say."""
    kinds: frozenset[str]
    """Kinds of weights of this network that the checkpoint has."""
    left_out: tuple[str, ...]
    """Other modules in the checkpoint, such as ``vq_model``."""
    naming: Naming | None
    """Origin of the names in the checkpoint; None if they are the official ones."""


def find_weights(
    content: Mapping[str, object], network: Network, source: str | Path, kind: str | None = None
) -> StateDict:
    """Finds the state dict of a network.

    Args:
        content: a state dict, or entries of which one is a state dict, also further down.
        source: name of the checkpoint in the error message.
        kind: the kind to use if the checkpoint has several; None chooses the first of ``network.entries``.

    Returns:
        The weights by their official names. If the checkpoint is not one of this network, all of its tensors.

    Raises:
        CheckpointError: there is no state dict, or it holds something other than dense tensors, two tensors of one
            name, or several networks of this kind.
    """
    found = dict(_state_dicts(content, network.entries))
    if not found:
        has = ", ".join(str(name) for name in list(content)[:8]) or "nothing"
        raise CheckpointError(f"{source}: no weights under {', '.join(network.entries)}; the file has {has}")
    found = {path: weights for path, weights in found.items() if holds(weights, network)} or found
    kinds = {path: "ema" if EMA_ENTRY in path else "model" for path in found}
    path = next((path for path in found if kinds[path] == kind), next(iter(found)))
    tensors = _unwrapped(found[path], source)
    stored: dict[str, list[str]] = {}
    for name, official in official_names(tensors).items():
        stored.setdefault(official, []).append(name)
    prefix, names = _own_names(stored, network, source)
    return StateDict(
        tensors={name.removeprefix(prefix): _join(tensors, stored[name], name, source) for name in names},
        kind=kinds[path],
        kinds=frozenset(kinds.values()),
        left_out=tuple(sorted({name.split(".")[0] for name in stored.keys() - set(names)})),
        naming=find_namings(tensors).get(prefix),
    )


def holds(names: Collection[object], network: Network) -> bool:
    """Whether tensors of these names include the network."""
    return bool(_prefixes(set(official_names([_unwrap(name) for name in names]).values()), network))


def check_floating(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raises `CheckpointError` if a tensor holds integers or complex numbers."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise CheckpointError(f"{source}: {name} is {dtype}, expected floating-point numbers")


def _state_dicts(
    content: Mapping[str, object], entries: tuple[str, ...], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Yields (names of the entries that lead to it, state dict), in the order of ``entries``.

    Entries of other names, such as ``gpt_model``, count as a part of the tensors' names.
    """
    if len(path) > _MAX_DEPTH:
        return
    known = [(entry, value) for entry in entries if isinstance(value := content.get(entry), Mapping)]
    below = [found for entry, value in known for found in _state_dicts(value, entries, (*path, entry))]
    if below:
        yield from below
    elif _has_tensors(content):
        yield path, content
    else:
        parts = {name: value for name, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)}
        if parts:
            yield path, {f"{part}.{name}": tensor for part, value in parts.items() for name, tensor in value.items()}


def _has_tensors(value: Mapping[str, object]) -> bool:
    return any(isinstance(item, Tensor) for item in value.values())


def _unwrap(name: object) -> str:
    return ".".join(part for part in str(name).split(".") if part not in WRAPPERS)


def _unwrapped(weights: Mapping[str, object], source: str | Path) -> dict[str, Tensor]:
    """Removes the parts of wrappers from the names, and checks that all values are dense tensors."""
    tensors: dict[str, Tensor] = {}
    stored: dict[str, str] = {}
    for name, value in weights.items():
        own = _unwrap(name)
        if own in stored:
            raise CheckpointError(f"{source}: {stored[own]} and {name} are two tensors for {own}")
        stored[own] = str(name)
        tensors[own] = _dense(value, f"{source}: {name}")
    return tensors


def _join(tensors: Mapping[str, Tensor], stored: list[str], name: str, source: str | Path) -> Tensor:
    """Returns the tensor of an official name: the one that is stored, or the rows of q, k and v below each other."""
    if stored == [name] or (len(stored) == 1 and not stored[0].endswith(QKV)):
        return tensors[stored[0]]
    parts = [part for end in QKV for part in stored if part.endswith(end)]
    if len(parts) != len(QKV) or len(stored) != len(QKV):
        raise CheckpointError(f"{source}: {name} is stored as {' and '.join(sorted(stored))}")
    shapes = [list(tensors[part].shape) for part in parts]
    if any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
        raise CheckpointError(f"{source}: {', '.join(parts)} have shapes {shapes}, expected as many columns in each")
    return torch.cat([tensors[part] for part in parts])


def _own_names(names: Collection[str], network: Network, source: str | Path) -> tuple[str, list[str]]:
    """Returns the prefix of a network, such as ``gpt_model.`` in a module of several, and the names of its tensors.

    A network without a prefix may have others beside its own layers, which are left out. If the network is not there,
    all names are returned.
    """
    prefixes = _prefixes(names, network)
    if not prefixes:
        return "", list(names)
    if len(prefixes) > 1:
        found = ", ".join(f"{prefix}*" for prefix in prefixes)
        raise CheckpointError(f"{source}: {network.title} in several copies ({found}); save the right one alone")
    prefix = prefixes[0]
    others = (p for other in NETWORKS if other is not network for p in _prefixes(names, other))
    inside = tuple(p for p in others if p.startswith(prefix) and p != prefix)
    inside += tuple(f"{prefix}{module}." for module in network.training)
    return prefix, [name for name in names if name.startswith(prefix) and not name.startswith(inside)]


def _prefixes(names: Collection[str], network: Network) -> list[str]:
    return sorted(name.removesuffix(network.tensor) for name in names if f".{name}".endswith(f".{network.tensor}"))


def _dense(value: object, name: str) -> Tensor:
    """Returns ``value`` if it is a dense tensor with values, else raises `CheckpointError`."""
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{name} is of type {type(value).__name__}, expected a tensor")
    if type(value) not in (Tensor, torch.nn.Parameter):
        raise CheckpointError(f"{name} is a {type(value).__name__}; save the full state dict in training")
    if value.is_meta:
        raise CheckpointError(f"{name} has no values (it is on the meta device)")
    if value.is_quantized or value.layout != torch.strided:
        problem = "quantized" if value.is_quantized else "sparse"
        raise CheckpointError(f"{name} is {problem}, expected a dense tensor")
    return value

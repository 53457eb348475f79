"""Weights are found wherever training code puts them, and named as in the official code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from llamagen_tokenizer import CONFIGS, VQModel
from llamagen_tokenizer.checkpoint_files import CheckpointError
from llamagen_tokenizer.state_dict import GPT, VQ, WRAPPERS, check_floating, find_weights

QKV, CODES = GPT.tensor, VQ.tensor
GPT_WEIGHTS = {QKV: torch.zeros(3, 1), "norm.weight": torch.ones(1), "output.weight": torch.zeros(4, 1)}
VQ_WEIGHTS = {CODES: torch.zeros(4, 2), "encoder.conv_in.weight": torch.zeros(1), "decoder.norm.weight": torch.ones(2)}


def prefixed(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "model.", "module.model.",
        "_fsdp_wrapped_module.", "_forward_module.model.", "net.", "model.gpt_model.", "module.transformer._orig_mod.",
    ],
)  # fmt: skip
def test_prefixes_of_wrappers_are_removed(prefix: str) -> None:
    assert find_weights(prefixed(prefix, GPT_WEIGHTS), GPT, "f").tensors == GPT_WEIGHTS


def test_wrappers_inside_a_name_are_removed() -> None:
    fsdp, checkpointed = "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."
    stored = {
        f"{fsdp}layers.0.{fsdp}{checkpointed}attention.wqkv.weight": torch.ones(2),
        f"{fsdp}layers.0.{fsdp}attention._orig_mod.wo.weight": torch.ones(1),
        f"{fsdp}norm.weight": torch.ones(1),
    }
    names = [QKV, "layers.0.attention.wo.weight", "norm.weight"]
    assert list(find_weights({"model": stored}, GPT, "f").tensors) == names


def test_the_output_beside_a_wrapped_body() -> None:
    stored = {"model." + QKV: torch.zeros(1), "model.norm.weight": torch.ones(1), "output.weight": torch.zeros(1)}
    assert find_weights(stored, GPT, "f").tensors.keys() == GPT_WEIGHTS.keys()


def test_two_tensors_of_one_name() -> None:
    stored = GPT_WEIGHTS | prefixed("_orig_mod.", {"norm.weight": torch.zeros(1)})
    message = r"f\.pt: norm\.weight and _orig_mod\.norm\.weight are two tensors for norm\.weight"
    with pytest.raises(CheckpointError, match=message):
        find_weights(stored, GPT, "f.pt")


@pytest.mark.parametrize("name", CONFIGS)
def test_no_name_of_the_image_tokenizer_has_a_wrapper(name: str) -> None:
    with torch.device("meta"):
        names = VQModel(CONFIGS[name]).state_dict()
    assert not any(WRAPPERS & set(name.split(".")) for name in names)


@pytest.mark.parametrize(
    "content",
    [
        prefixed("gpt_model.", GPT_WEIGHTS) | prefixed("vq_model.", VQ_WEIGHTS),
        {"model": prefixed("gpt_model.", GPT_WEIGHTS) | prefixed("vq_model.", VQ_WEIGHTS)},
        {"gpt_model": GPT_WEIGHTS, "vq_model": VQ_WEIGHTS, "optimizer": {"state": {}}},
        {"state_dict": {"gpt_model": prefixed("module.", GPT_WEIGHTS), "vq_model": VQ_WEIGHTS}},
        {"state_dict": prefixed("model.", GPT_WEIGHTS) | prefixed("vq_model.", VQ_WEIGHTS)},
    ],
)
def test_one_checkpoint_of_both_networks(content: dict[str, Any]) -> None:
    gpt, vq = find_weights(content, GPT, "f"), find_weights(content, VQ, "f")
    assert (gpt.tensors, gpt.left_out) == (GPT_WEIGHTS, ("vq_model",))
    assert vq.tensors == VQ_WEIGHTS
    assert vq.left_out in (("gpt_model",), ("layers", "norm", "output"))


def test_several_networks_of_one_kind() -> None:
    content = prefixed("policy.", GPT_WEIGHTS) | prefixed("reference.", GPT_WEIGHTS)
    with pytest.raises(CheckpointError, match=r"f: a GPT checkpoint in several copies \(policy\.\*, reference\.\*\); "):
        find_weights(content, GPT, "f")


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"state_dict": GPT_WEIGHTS}},
        {"state_dict": {"module": {"model": GPT_WEIGHTS}}},
        {"module": GPT_WEIGHTS, "ds_version": "0.14", "optimizer": None, "steps": torch.tensor(3)},
        {"state_dict": prefixed("model.", GPT_WEIGHTS), "pytorch-lightning_version": "2.4", "loops": {}},
        {"model": "GPT-B", "state_dict": GPT_WEIGHTS},
        {"model": {"name": "GPT-B"}, "module": GPT_WEIGHTS},
        {"model": {}, "ema": GPT_WEIGHTS},
        {"ema": GPT_WEIGHTS},
    ],
)
def test_entries(content: dict[str, Any]) -> None:
    assert find_weights(content, GPT, "f").tensors == GPT_WEIGHTS


@pytest.mark.parametrize(("network", "weights", "default"), [(GPT, GPT_WEIGHTS, "model"), (VQ, VQ_WEIGHTS, "ema")])
def test_kinds_of_weights(network: Any, weights: dict[str, Tensor], default: str) -> None:
    averaged = {name: tensor + 1 for name, tensor in weights.items()}
    for content in ({"model": weights, "ema": averaged}, {"state_dict": {"ema": averaged, "model": weights}}):
        found = {kind: find_weights(content, network, "f", kind) for kind in (None, "model", "ema")}
        assert {kind: state.kind for kind, state in found.items()} == {None: default, "model": "model", "ema": "ema"}
        assert all(torch.equal(found["model"].tensors[name], tensor) for name, tensor in weights.items())
        assert all(torch.equal(found["ema"].tensors[name], tensor) for name, tensor in averaged.items())
        assert found[None].kinds == {"model", "ema"}
    only = find_weights({"ema": averaged}, network, "f", "model")
    assert (only.kind, only.kinds) == ("ema", {"ema"})
    assert find_weights(weights, network, "f", "ema").kind == "model"


def test_an_average_of_the_other_network_does_not_count() -> None:
    content = {"model": prefixed("gpt_model.", GPT_WEIGHTS) | prefixed("vq_model.", VQ_WEIGHTS), "ema": GPT_WEIGHTS}
    assert find_weights(content, VQ, "f").kinds == {"model"}
    assert find_weights(content, GPT, "f").kinds == {"model", "ema"}


class Special(Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, r"f: norm\.weight is of type int, expected a tensor"),
        ([1.0], r"f: norm\.weight is of type list, expected a tensor"),
        (torch.zeros(2).numpy(), r"norm\.weight is of type ndarray, expected a tensor"),
        (None, r"norm\.weight is of type NoneType, expected a tensor"),
        (torch.eye(2).to_sparse(), r"norm\.weight is sparse, expected a dense tensor"),
        (torch.zeros(2, device="meta"), r"norm\.weight has no values \(it is on the meta device\)"),
        (torch.zeros(2).as_subclass(Special), r"norm\.weight is a Special; save the full state dict in training"),
    ],
)
def test_what_is_no_dense_tensor(value: object, message: str) -> None:
    for content in (GPT_WEIGHTS | {"norm.weight": value}, {"model": GPT_WEIGHTS | {"norm.weight": value}}):
        with pytest.raises(CheckpointError, match=message):
            find_weights(content, GPT, "f")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_numbers_that_are_no_weights(dtype: torch.dtype) -> None:
    check_floating({"a": torch.zeros(1), "b": torch.zeros(1, dtype=torch.float8_e4m3fn)}, "f")
    with pytest.raises(CheckpointError, match=rf"f: b is {str(dtype)[6:]}, expected floating-point numbers"):
        check_floating({"a": torch.zeros(1), "b": torch.zeros(1, dtype=dtype)}, "f")


def test_no_weights() -> None:
    deep: dict[str, Any] = {}
    deep["model"] = deep
    for content, has in (({}, "nothing"), ({"steps": 3}, "steps"), (deep, "model")):
        with pytest.raises(CheckpointError, match=f"f: no weights under model, module, state_dict, ema; .* has {has}$"):
            find_weights(content, GPT, "f")

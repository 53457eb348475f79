"""Checkpoints as people bring them: other names, other files, folders, several kinds of weights in one."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from tests.helpers.taming import Taming, random_taming
from torch import Tensor

from llamagen_server.convert.checkpoint import open_checkpoint
from llamagen_server.convert.gpt import read_gpt
from llamagen_server.convert.options import ConvertOptions
from llamagen_server.convert.vq import read_vq
from llamagen_server.model_dir import ModelDir
from llamagen_tokenizer import VQConfig, VQModel, load_vq
from llamagen_tokenizer.checkpoint_files import CheckpointError, load_checkpoint
from llamagen_tokenizer.state_dict import GPT, VQ, WRAPPERS
from vllm_llamagen.caption_projection import CaptionProjection
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.weights import official_shapes

Convert = Callable[..., Path]
Args = dict[str, Any]
Weights = dict[str, Tensor]


@pytest.fixture
def converted(convert: Convert, c2i: Args, weights: Weights, vq_weights: Weights, out: Path) -> Callable[..., None]:
    """``converted(gpt_ckpt=F)`` converts and checks that the result has the golden weights."""

    def check(**flags: Any) -> None:
        given = {name: value for name, value in (c2i | flags).items() if value is not None}
        target = out / str(len(list(out.iterdir())) if out.exists() else 0)
        stored = load_file(convert(target, **given) / "model.safetensors")
        assert stored.keys() == weights.keys()
        assert all(torch.equal(stored[name], tensor) for name, tensor in weights.items())
        vq = load_vq(target / "vq").state_dict()
        assert all(torch.equal(tensor, vq_weights[name].float()) for name, tensor in vq.items())
        assert ModelDir.open(target).image_size == 64

    return check


@pytest.fixture
def refused(convert: Convert, c2i: Args, out: Path) -> Callable[..., None]:
    """``refused(message, gpt_ckpt=F)`` checks that a conversion fails with one line and leaves nothing."""

    def check(message: str, **flags: Any) -> None:
        with pytest.raises(ValueError, match=message) as error:
            convert(out, **c2i | flags)
        assert "\n" not in str(error.value)
        assert not out.exists()

    return check


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def sharded(weights: Weights, folder: Path, index: str = "model.safetensors.index.json") -> Path:
    """Writes two files and their index."""
    folder.mkdir(exist_ok=True)
    names = list(weights)
    weight_map = {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def model_args(c2i: Args) -> Args:
    """The official ModelArgs of tiny_c2i."""
    return json.loads(Path(c2i["gpt_config"]).read_text())


# Names of tensors


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "model.", "_fsdp_wrapped_module."]
)
def test_prefixes_of_wrappers(
    converted: Callable[..., None], weights: Weights, vq_weights: Weights, tmp_path: Path, prefix: str
) -> None:
    torch.save({"model": prefixed(prefix, weights)}, tmp_path / "gpt.pt")
    torch.save({"model": prefixed(prefix, vq_weights)}, tmp_path / "vq.pt")
    converted(gpt_ckpt=tmp_path / "gpt.pt", vq_ckpt=tmp_path / "vq.pt")


def test_wrappers_inside_the_names(converted: Callable[..., None], weights: Weights, tmp_path: Path) -> None:
    wrapper = "._fsdp_wrapped_module._checkpoint_wrapped_module."
    stored = {name.replace(".attention.", f"{wrapper}attention."): tensor for name, tensor in weights.items()}
    assert stored.keys() != weights.keys()
    torch.save(prefixed("_fsdp_wrapped_module.", stored), tmp_path / "consolidated.pth")
    converted(gpt_ckpt=tmp_path / "consolidated.pth")


@pytest.mark.parametrize("config", [LlamaGenConfig(), LlamaGenConfig(condition="text", cls_token_num=120)])
def test_no_official_name_has_a_wrapper(config: LlamaGenConfig) -> None:
    names = [*official_shapes(config), "freqs_cis", "layers.0.attention.kv_cache.k_cache"]
    assert not any(WRAPPERS & set(name.split(".")) for name in names)


def test_two_tensors_of_one_name(refused: Callable[..., None], weights: Weights, tmp_path: Path) -> None:
    torch.save(weights | prefixed("module.", {"norm.weight": weights["norm.weight"]}), tmp_path / "gpt.pt")
    refused("gpt.pt: norm.weight and module.norm.weight are two tensors for norm", gpt_ckpt=tmp_path / "gpt.pt")


# Names of other code


def lantern_names(weights: Weights) -> Weights:
    """The tensors as LANTERN's ``LlamaForCausalLM`` names them."""
    named: Weights = {}
    modules = {
        "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
        "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    for name, tensor in weights.items():
        for official, other in modules.items():
            name = name.replace(f".{official}.", f".{other}.")
        if name == "output.weight":
            named["lm_head.weight"] = tensor
        elif ".wqkv." in name:
            rows, dim = tensor.shape
            sizes = (dim, (rows - dim) // 2, (rows - dim) // 2)
            for part, rows_of_part in zip("qkv", tensor.split(sizes), strict=True):
                named["model." + name.replace("attention.wqkv", f"self_attn.{part}_proj")] = rows_of_part.contiguous()
        else:
            named["model." + name.replace("tok_embeddings", "embed_tokens")] = tensor
    return dict(sorted(named.items()))  # as safetensors lists them: k before q


def lantern_config(config_file: str | Path) -> Args:
    """``config.json`` of LANTERN, a Llama config with LlamaGen's fields beside it."""
    args = json.loads(Path(config_file).read_text())
    same = ("block_size", "cls_token_num", "caption_dim", "num_classes", "vocab_size", "rope_base")
    return {name: args[name] for name in same} | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rope_theta": 10000.0,
        "hidden_size": args["dim"], "num_hidden_layers": args["n_layer"], "num_attention_heads": args["n_head"],
        "num_key_value_heads": args["n_kv_head"] or args["n_head"], "rms_norm_eps": 1e-6, "torch_dtype": "float16",
        "input_type": args["model_type"], "pretraining_tp": 1, "tie_word_embeddings": False,
    }  # fmt: skip


@pytest.mark.parametrize("form", ["one file", "sharded", "in a module"])
@pytest.mark.parametrize("name", ["tiny_t2i", "tiny_c2i_gqa"])
def test_names_of_lantern(
    convert: Convert,
    golden_args: Callable[[str], Args],
    golden_dir: Path,
    tiny_t5_dir: Path,
    vq_weights: Weights,
    out: Path,
    tmp_path: Path,
    name: str,
    form: str,
) -> None:
    """A folder of LANTERN needs no --gpt-config, and q, k and v become wqkv, also with fewer k and v than q."""
    flags = golden_args(name)
    weights: Weights = torch.load(golden_dir / f"{name}.pt")["model"]
    stored = lantern_names(weights)
    assert not any(official in stored for official in weights)
    folder = tmp_path / "LlamaGen-T2I"
    folder.mkdir()
    if form == "sharded":
        sharded(stored, folder)
    elif form == "one file":
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        torch.save({"module": prefixed("gpt_model.", stored) | prefixed("vq_model.", vq_weights)}, folder / "both.pt")
        flags["vq_ckpt"] = folder
    (folder / "config.json").write_text(json.dumps(lantern_config(flags["gpt_config"])))
    del flags["gpt_config"]
    text = {"text_encoder": tiny_t5_dir} if name == "tiny_t2i" else {}
    convert(out, **flags | text | {"gpt_ckpt": folder})
    result = load_file(out / "model.safetensors")
    assert result.keys() == weights.keys()
    assert all(torch.equal(result[key], tensor) for key, tensor in weights.items())
    config = ModelDir.open(out).config
    official = json.loads((golden_dir / f"{name}.json").read_text())["model_args"]
    assert (config.n_head, config.n_kv_head) == (official["n_head"], official["n_kv_head"] or official["n_head"])
    assert (config.grid_size, config.norm_eps) == (8, 1e-6)


def test_names_of_lantern_that_are_incomplete(refused: Callable[..., None], weights: Weights, tmp_path: Path) -> None:
    stored, query = lantern_names(weights), "model.layers.1.self_attn.q_proj.weight"
    torch.save({name: tensor for name, tensor in stored.items() if name != query}, tmp_path / "gpt.pt")
    message = (
        r"gpt.pt: layers.1.attention.wqkv.weight is stored as layers.1.self_attn.k_proj.weight and .*v_proj.weight"
    )
    refused(message, gpt_ckpt=tmp_path / "gpt.pt")
    torch.save(stored | {query: torch.zeros(128, 64)}, tmp_path / "gpt.pt")
    refused(
        r"gpt.pt: .*q_proj.weight, .* have shapes \[\[128, 64\], .*expected as many columns",
        gpt_ckpt=tmp_path / "gpt.pt",
    )
    torch.save(stored | {"model.tok_embeddings.weight": weights["tok_embeddings.weight"]}, tmp_path / "gpt.pt")
    refused(r"tok_embeddings.weight is stored as embed_tokens.weight and tok_embe", gpt_ckpt=tmp_path / "gpt.pt")


def test_another_llama_beside_the_language_model(
    converted: Callable[..., None], weights: Weights, tmp_path: Path
) -> None:
    """A text encoder with Hugging Face's names is no second language model."""
    other = {name: tensor for name, tensor in lantern_names(weights).items() if "cls_embedding" not in name}
    both = prefixed("gpt_model.", weights) | prefixed("text_encoder.", other)
    torch.save(both, tmp_path / "both.pt")
    converted(gpt_ckpt=tmp_path / "both.pt")


# Files and folders


def test_one_file_of_both_networks(
    converted: Callable[..., None],
    weights: Weights,
    vq_weights: Weights,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    both = prefixed("gpt_model.", weights) | prefixed("vq_model.", vq_weights)
    save_file(both, tmp_path / "model.safetensors")
    torch.save({"model": both}, tmp_path / "both.pt")
    with caplog.at_level(logging.INFO, "llamagen_server"):
        for file in (tmp_path / "model.safetensors", tmp_path / "both.pt"):
            converted(gpt_ckpt=file, vq_ckpt=file)
    assert "both.pt: leaves out vq_model" in caplog.text
    assert "both.pt: leaves out gpt_model" in caplog.text


def test_folder_of_a_model_of_both_networks(
    converted: Callable[..., None], c2i: Args, weights: Weights, vq_weights: Weights, tmp_path: Path
) -> None:
    """The model of a reinforcement learner: its config has names and the size of the images, no ModelArgs."""
    folder = sharded(prefixed("gpt_model.", weights) | prefixed("vq_model.", vq_weights), tmp_path / "my m\u00f6del")
    config = {
        "model_type": "ImgGen_HF", "architectures": ["ImgGen_HF"], "gpt_model": "GPT-B", "vq_model": "VQ-16",
        "gpt_type": "c2i", "codebook_size": 512, "codebook_embed_dim": 8, "cls_token_num": 1, "dropout_p": 0.1,
        "token_dropout_p": 0.1, "image_size": 64, "downsample_size": 8, "dtype": "bfloat16", "architecture": None,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    gpt_config = tmp_path / "gpt.json"
    gpt_config.write_text('{"n_head": 4}')
    converted(gpt_ckpt=folder, vq_ckpt=folder, gpt_config=gpt_config)


def test_folders_of_the_hub(
    converted: Callable[..., None], c2i: Args, weights: Weights, vq_weights: Weights, tmp_path: Path
) -> None:
    """As ``PyTorchModelHubMixin`` writes them; config.json has all that --gpt-config and --vq-config would give."""
    for name, tensors, config in (("gpt", weights, "gpt_config"), ("vq", vq_weights, "vq_config")):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / name / "config.json").write_text(Path(c2i[config]).read_text())
        (tmp_path / name / "README.md").write_text("# Model")
    converted(gpt_ckpt=tmp_path / "gpt", vq_ckpt=tmp_path / "vq", gpt_config=None, vq_config=None)


def test_config_of_a_folder_that_disagrees(
    refused: Callable[..., None], c2i: Args, weights: Weights, vq_weights: Weights, tmp_path: Path
) -> None:
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"n_head": 2, "model_type": "other", "unknown": 1}))
    refused(r"n_head is 4 in --gpt-config, but 2 in .*/config\.json", gpt_ckpt=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"dim": 256}))
    Path(tmp_path / "gpt.json").write_text('{"n_head": 4, "block_size": 64}')
    message = r"dim is 256 in --gpt-config or .*/config\.json, but 128 in"
    refused(message, gpt_ckpt=tmp_path, gpt_config=tmp_path / "gpt.json")
    (tmp_path / "config.json").write_text(json.dumps({"image_size": 128, "downsample_size": 8}))
    message = r"block_size in --gpt-config gives 64 image tokens, but .*/config\.json gives 256"
    refused(message, gpt_ckpt=tmp_path, gpt_config=tmp_path / "gpt.json")
    save_file(vq_weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"codebook_l2_norm": 0}))
    (tmp_path / "vq.json").write_text('{"ch": 32, "z_channels": 32}')
    message = r"/config\.json: codebook_l2_norm is 0, must be true or false"
    refused(message, vq_ckpt=tmp_path, vq_config=tmp_path / "vq.json")
    (tmp_path / "config.json").write_text(json.dumps({"codebook_size": 16384}))
    refused(r"codebook_size is 512 in --vq-config .*, but 16384 in .*/config\.json", vq_ckpt=tmp_path)


def test_folders_by_the_hub_s_own_library(
    converted: Callable[..., None], c2i: Args, weights: Weights, vq_weights: Weights, tmp_path: Path
) -> None:
    """The networks take the official ``ModelArgs``, a dataclass, whose fields the library writes to config.json."""
    from dataclasses import make_dataclass

    from huggingface_hub import PyTorchModelHubMixin

    class Hub(torch.nn.Module, PyTorchModelHubMixin):
        def __init__(self, config: Any, tensors: Weights) -> None:
            super().__init__()
            for name, tensor in tensors.items():
                *path, last = name.split(".")
                module: torch.nn.Module = self
                for part in path:
                    if not hasattr(module, part):
                        module.add_module(part, torch.nn.Module())
                    module = getattr(module, part)
                module.register_buffer(last, tensor)

    for folder, tensors, flag in (("gpt", weights, "gpt_config"), ("vq", vq_weights, "vq_config")):
        args = json.loads(Path(c2i[flag]).read_text())
        config = make_dataclass("ModelArgs", args)(**args)
        Hub(config=config, tensors=tensors).save_pretrained(tmp_path / folder)
        assert (tmp_path / folder / "config.json").is_file()
    converted(gpt_ckpt=tmp_path / "gpt", vq_ckpt=tmp_path / "vq", gpt_config=None, vq_config=None)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.pth", "my checkpoint.safetensors"])
def test_folder_with_one_file(converted: Callable[..., None], weights: Weights, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "0001000"
    folder.mkdir()
    if name.endswith(".safetensors"):
        save_file(weights, folder / name)
    else:
        torch.save(weights, folder / name)
    (folder / "resume_step.txt").write_text("1000")
    converted(gpt_ckpt=folder)


def test_index_of_a_sharded_checkpoint(converted: Callable[..., None], weights: Weights, tmp_path: Path) -> None:
    folder = sharded(weights, tmp_path / "a")
    converted(gpt_ckpt=folder / "model.safetensors.index.json")
    converted(gpt_ckpt=sharded(weights, tmp_path / "b", "diffusion_pytorch_model.safetensors.index.json"))


def test_sharded_checkpoint_without_a_file(refused: Callable[..., None], weights: Weights, tmp_path: Path) -> None:
    folder = sharded(weights, tmp_path / "a")
    part = folder / "model-00002-of-00002.safetensors"
    save_file({"norm.weight": weights["norm.weight"]}, part)
    refused(r"model-00002-of-00002.safetensors: tensor .* is missing, the index lists it", gpt_ckpt=folder)
    part.unlink()
    refused(r"model-00002-of-00002.safetensors: no such file", gpt_ckpt=folder)


def test_folders_that_cannot_be_converted(
    refused: Callable[..., None], convert: Convert, c2i: Args, tmp_path: Path
) -> None:
    model = convert(tmp_path / "model", **c2i)
    ready = "/model: a model directory already, ready to serve; its image tokenizer alone is .*/model/vq"
    refused(ready, gpt_ckpt=model)
    refused(ready, vq_ckpt=model)
    for name, message in {
        "__0_0.distcp": "shards of torch.distributed; merge them with `python -m torch.distributed.checkpoint.format_u",
        "zero_to_fp32.py": "shards of DeepSpeed; merge them with the zero_to_fp32.py in this folder",
        "README.md": r"no weights in this folder, expected model.safetensors or a .safetensors, .pt",
    }.items():
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).touch()
        refused(message, gpt_ckpt=folder)
    for name in ("a.pt", "b.pt", "c.pth", "d.bin", "e.ckpt"):
        (tmp_path / "README" / name).touch()
    refused(r"/README: a folder of 5 checkpoints \(a.pt, b.pt, c.pth, d.bin, \.\.\.\), give one", gpt_ckpt=folder)


def test_image_tokenizer_of_a_model_directory(
    converted: Callable[..., None], convert: Convert, c2i: Args, tmp_path: Path
) -> None:
    converted(vq_ckpt=convert(tmp_path / "model", **c2i) / "vq", vq_config=None)


@pytest.mark.parametrize("tokens", [77, 200])
def test_other_number_of_condition_tokens(
    convert: Convert, t2i: Args, golden_dir: Path, out: Path, tmp_path: Path, tokens: int
) -> None:
    """It is that of the unconditional embedding's rows; a rotary table must fit it and the grid."""
    weights: Weights = torch.load(golden_dir / "tiny_t2i.pt")["model"]
    uncond = torch.arange(tokens * 64, dtype=torch.bfloat16).view(tokens, 64)
    changed = weights | {"cls_embedding.uncond_embedding": uncond, "freqs_cis": torch.zeros(tokens + 64, 16, 2)}
    torch.save({"model": changed}, tmp_path / "gpt.pt")
    (tmp_path / "gpt.json").write_text(json.dumps({"n_head": 4, "cls_token_num": tokens}))
    convert(out, **t2i | {"gpt_ckpt": tmp_path / "gpt.pt", "gpt_config": tmp_path / "gpt.json"})
    config = ModelDir.open(out).config
    assert (config.cls_token_num, config.grid_size, config.max_position_embeddings) == (tokens, 8, tokens + 64)
    projection = CaptionProjection(config, {k: t.float() for k, t in load_file(out / "model.safetensors").items()})
    assert projection(torch.zeros(tokens, 64)).shape == (tokens, 2 * config.dim)
    with pytest.raises(ValueError, match=f"the prompt has {tokens + 1} tokens, must have 1 to {tokens}"):
        projection(torch.zeros(tokens + 1, 64))


def test_number_of_condition_tokens_that_disagrees(refused: Callable[..., None], c2i: Args, tmp_path: Path) -> None:
    """A class is always one token: the official code has one vector for each."""
    (tmp_path / "gpt.json").write_text(json.dumps(model_args(c2i) | {"cls_token_num": 4}))
    refused(r"cls_token_num is 4 in --gpt-config, but 1 in .*tiny_c2i.pt", gpt_config=tmp_path / "gpt.json")


# Image tokenizers of other training


def test_codebook_without_l2_norm(convert: Convert, c2i: Args, vq_weights: Weights, out: Path, tmp_path: Path) -> None:
    """It is served too: --vq-config states it, and vq/config.json after that."""
    config = json.loads(Path(c2i["vq_config"]).read_text()) | {"codebook_l2_norm": False, "codebook_embed_dim": 256}
    changed = {
        "quantize.embedding.weight": torch.randn(512, 256),
        "quant_conv.weight": torch.randn(256, 32, 1, 1),
        "quant_conv.bias": torch.randn(256),
        "post_quant_conv.weight": torch.randn(32, 256, 1, 1),
    }
    torch.save({"model": vq_weights | changed}, tmp_path / "vq.pt")
    (tmp_path / "vq.json").write_text(json.dumps(config))
    convert(out, **c2i | {"vq_ckpt": tmp_path / "vq.pt", "vq_config": tmp_path / "vq.json"})
    vq = load_vq(ModelDir.open(out).vq_path)
    assert (vq.config.codebook_l2_norm, vq.config.codebook_embed_dim) == (False, 256)
    assert torch.equal(vq.quantize.codebook(), changed["quantize.embedding.weight"])


@pytest.mark.parametrize(("ch_mult", "downsample"), [((1, 1, 2, 2, 4), 16), ((1, 2, 2, 4), 8)])
def test_vqgan_of_a_released_shape(tmp_path: Path, ch_mult: tuple[int, ...], downsample: int) -> None:
    """It needs no --vq-config: the shape is that of LlamaGen's, and the codebook is known not to be normalised."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Taming(128, ch_mult, 2, 256, 1024, 256).state_dict().items()}
    torch.save({"state_dict": {n: torch.tensor(0.0).expand(s) for n, s in shapes.items()}}, tmp_path / "last.ckpt")
    config = read_vq(open_checkpoint(tmp_path / "last.ckpt", VQ, None), None).config
    expected = {"codebook_size": 1024, "codebook_embed_dim": 256, "encoder_ch_mult": ch_mult, "ch": 128}
    assert {name: getattr(config, name) for name in expected} == expected
    assert (config.codebook_l2_norm, config.downsample) == (False, downsample)


def test_vqgan_of_another_shape(tmp_path: Path) -> None:
    torch.save(random_taming(32, (1, 2), 1, 32, 16, 8).state_dict(), tmp_path / "last.ckpt")
    checkpoint = open_checkpoint(tmp_path / "last.ckpt", VQ, None)
    with pytest.raises(ValueError, match=r"last.ckpt: not the shape of VQ-16 or VQ-8; describe it with --vq-config"):
        read_vq(checkpoint, None)
    (tmp_path / "vq.json").write_text(
        '{"ch": 32, "encoder_ch_mult": [1, 2], "decoder_ch_mult": [1, 2], "num_res_blocks": 1, "z_channels": 32}'
    )
    assert read_vq(checkpoint, tmp_path / "vq.json").config.codebook_l2_norm is False
    # attention at another resolution, or at none
    without = {n: t for n, t in random_taming(32, (1, 2), 1, 32, 16, 8).state_dict().items() if ".attn.0" not in n}
    torch.save(without, tmp_path / "last.ckpt")
    with pytest.raises(
        ValueError, match=r"does not fit --vq-config .*tensors are missing, first decoder.conv_blocks.0.a"
    ):
        read_vq(open_checkpoint(tmp_path / "last.ckpt", VQ, None), tmp_path / "vq.json")


def test_official_name_of_a_folder_or_a_safetensors_file(
    convert: Convert, c2i: Args, weights: Weights, tmp_path: Path
) -> None:
    """The name states the size of the images, if the image tokenizer has 16 pixels per image token."""
    config = VQConfig(512, 8, (1, 1, 1, 1, 1), (1, 1, 1, 1, 1), z_channels=32, ch=32)
    torch.save({"model": VQModel(config).state_dict()}, tmp_path / "vq.pt")
    config.to_json(tmp_path / "vq.json")
    (tmp_path / "c2i_B_256").mkdir()
    (tmp_path / "gpt.json").write_text('{"n_head": 4}')
    for file in (tmp_path / "c2i_B_256" / "model.safetensors", tmp_path / "c2i_B_384.safetensors"):
        save_file(weights, file)
    flags = {"vq_ckpt": tmp_path / "vq.pt", "vq_config": tmp_path / "vq.json", "gpt_config": tmp_path / "gpt.json"}
    for name, size in {"c2i_B_256": 256, "c2i_B_384.safetensors": 384}.items():
        model = convert(tmp_path / f"out{size}", gpt_ckpt=tmp_path / name, **flags)
        assert ModelDir.open(model).image_size == size


def test_lora_adapters(refused: Callable[..., None], weights: Weights, tmp_path: Path) -> None:
    stored = {name.replace("wqkv.weight", "wqkv.base_layer.weight"): tensor for name, tensor in weights.items()}
    stored["layers.0.attention.wqkv.lora_A.default.weight"] = torch.zeros(2, 128)
    torch.save(prefixed("base_model.model.", stored), tmp_path / "gpt.pt")
    refused("gpt.pt: has LoRA adapters beside the weights; merge them before saving", gpt_ckpt=tmp_path / "gpt.pt")


# Tied tensors


@pytest.mark.parametrize("stored", ["shared.pt", "shared.safetensors", "output.weight", "tok_embeddings.weight"])
def test_tied_embeddings(convert: Convert, c2i: Args, weights: Weights, out: Path, tmp_path: Path, stored: str) -> None:
    """Shared in a torch file; once in a file of ``save_model``; one of them missing, if the config states it."""
    tied = weights | {"output.weight": weights["tok_embeddings.weight"]}
    file = tmp_path / f"{stored}.pt"
    if stored == "shared.safetensors":
        module = torch.nn.Module()
        for name, tensor in tied.items():
            inner = module
            *path, last = name.split(".")
            for part in path:
                if not hasattr(inner, part):
                    inner.add_module(part, torch.nn.Module())
                inner = getattr(inner, part)
            inner.register_parameter(last, torch.nn.Parameter(tensor))
        module.output.weight = module.tok_embeddings.weight
        save_model(module, str(file))
        assert len(load_file(file)) == len(tied) - 1
    else:
        torch.save({"model": {name: tensor for name, tensor in tied.items() if name != stored}}, file)
    if stored.endswith(".weight"):
        (tmp_path / "gpt.json").write_text(json.dumps(model_args(c2i) | {"tie_word_embeddings": True}))
        c2i = c2i | {"gpt_config": tmp_path / "gpt.json"}
    result = load_file(convert(out, **c2i | {"gpt_ckpt": file}) / "model.safetensors")
    assert result.keys() == weights.keys()
    assert all(torch.equal(result[name], tensor) for name, tensor in tied.items())


@pytest.mark.parametrize("name", ["output.weight", "tok_embeddings.weight"])
def test_missing_embeddings_are_not_taken_for_tied(
    refused: Callable[..., None], weights: Weights, tmp_path: Path, name: str
) -> None:
    torch.save({key: tensor for key, tensor in weights.items() if key != name}, tmp_path / "gpt.pt")
    refused(
        rf'gpt.pt: {name} is missing; if .* give {{"tie_word_embeddings": true}} with', gpt_ckpt=tmp_path / "gpt.pt"
    )


# What else is in a file


def test_numpy_and_containers_beside_the_weights(
    converted: Callable[..., None], weights: Weights, tmp_path: Path
) -> None:
    trained = {"best": np.float64(0.5), "rng": np.random.RandomState(0).get_state(), "args": {"lr": np.float32(1)}}
    torch.save({"model": weights} | trained, tmp_path / "gpt.pt")
    converted(gpt_ckpt=tmp_path / "gpt.pt")


def test_other_classes_beside_the_weights(refused: Callable[..., None], weights: Weights, tmp_path: Path) -> None:
    args = argparse.Namespace(saved=datetime.datetime(2024, 6, 10))
    torch.save({"model": weights, "args": args}, tmp_path / "gpt.pt")
    refused(
        r"gpt.pt: not a checkpoint of plain tensors \(it holds a datetime.datetime\); .*python -c 'import torch; ",
        gpt_ckpt=tmp_path / "gpt.pt",
    )


SAVED = datetime.datetime(2024, 6, 10)
OTHER_ENTRIES: dict[str, Callable[[Weights, Weights], Args]] = {
    "both networks": lambda gpt, vq: {"gpt_model": gpt, "vq_model": vq, "saved": SAVED},
    "another entry": lambda gpt, vq: {"net": gpt, "saved": SAVED},
    "inside the state dict": lambda gpt, vq: {"model": gpt | {"out": Path("runs/3")}},
    "Lightning": lambda gpt, vq: {"state_dict": prefixed("gpt.", gpt), "hyper_parameters": {"out": Path("runs/3")}},
    "an optimizer beside it": lambda gpt, vq: {
        "gpt": gpt,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2), "at": SAVED}}, "param_groups": [{"lr": 0.1}]},
    },
}


@pytest.mark.parametrize("kind", OTHER_ENTRIES)
def test_the_line_that_saves_the_weights_alone_makes_a_checkpoint(
    converted: Callable[..., None], weights: Weights, vq_weights: Weights, tmp_path: Path, kind: str
) -> None:
    torch.save(OTHER_ENTRIES[kind](weights, vq_weights), tmp_path / "all.pt")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "all.pt")
    line = str(error.value).rsplit("save the weights alone: ", 1)[1]
    folder = Path(sys.executable).parent
    subprocess.run(
        line, shell=True, check=True, timeout=60, env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    )
    saved = tmp_path / "all-weights.pt"
    converted(gpt_ckpt=saved, **({"vq_ckpt": saved} if kind == "both networks" else {}))


def test_command_line_as_a_dictionary(convert: Convert, c2i: Args, weights: Weights, out: Path, tmp_path: Path) -> None:
    torch.save({"model": weights, "args": {"image_size": 64, "downsample_size": 8}}, tmp_path / "gpt.pt")
    (tmp_path / "gpt.json").write_text('{"n_head": 4}')
    convert(out, **c2i | {"gpt_ckpt": tmp_path / "gpt.pt", "gpt_config": tmp_path / "gpt.json"})
    assert ModelDir.open(out).config.grid_size == 8


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "gpt.pt: norm.weight is of type int, expected a tensor"),
        (torch.zeros(128, dtype=torch.int8), "gpt.pt: norm.weight is int8, expected floating-point numbers"),
        (torch.zeros(128, device="meta"), "gpt.pt: norm.weight has no values"),
        (torch.zeros(128).to_sparse(), "gpt.pt: norm.weight is sparse, expected a dense tensor"),
        (
            torch.zeros(128).to(torch.float8_e4m3fn),
            "gpt.pt: has tensors of float8_e4m3fn; choose one of .* with --dtype",
        ),
        (torch.zeros(128, dtype=torch.float64), "gpt.pt: has tensors of float64; choose one of .* with --dtype"),
    ],
)
def test_values_that_are_no_weights(
    refused: Callable[..., None], weights: Weights, tmp_path: Path, value: object, message: str
) -> None:
    torch.save({"model": weights | {"norm.weight": value}}, tmp_path / "gpt.pt")
    refused(message, gpt_ckpt=tmp_path / "gpt.pt")


# Trained and averaged weights


@pytest.fixture
def averaged(weights: Weights, vq_weights: Weights, tmp_path: Path) -> Args:
    """Checkpoints with ``model`` and ``ema``; of the averaged weights ``norm.weight`` and ``conv_out.bias`` are 2."""
    gpt = {"model": weights, "ema": weights | {"norm.weight": torch.full_like(weights["norm.weight"], 2)}}
    name = "decoder.conv_out.bias"
    vq = {"model": vq_weights, "ema": vq_weights | {name: torch.full_like(vq_weights[name], 2)}}
    torch.save(gpt, tmp_path / "gpt.pt")
    torch.save(vq, tmp_path / "vq.pt")
    return {"gpt_ckpt": tmp_path / "gpt.pt", "vq_ckpt": tmp_path / "vq.pt"}


def is_averaged(model: Path) -> tuple[bool, bool]:
    gpt = load_file(model / "model.safetensors")["norm.weight"]
    vq = load_file(model / "vq" / "model.safetensors")["decoder.conv_out.bias"]
    return bool((gpt == 2).all()), bool((vq == 2).all())


@pytest.mark.parametrize(
    ("choice", "expected"), [(None, (False, True)), ("model", (False, False)), ("ema", (True, True))]
)
def test_choice_of_weights(
    convert: Convert,
    c2i: Args,
    averaged: Args,
    out: Path,
    choice: str | None,
    expected: tuple[bool, bool],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "llamagen_server"):
        convert(out, **c2i | averaged | ({"weights": choice} if choice else {}))
    assert is_averaged(out) == expected
    kinds = ["ema" if is_ema else "model" for is_ema in expected]
    hints = ["; --weights ema chooses the other", "; --weights model chooses the other"] if choice is None else ["", ""]
    for file, kind, hint in zip(("gpt.pt", "vq.pt"), kinds, hints, strict=True):
        assert f"{file}: has model and ema, uses {kind}{hint}\n" in caplog.text


def test_the_choice_is_for_checkpoints_that_have_it(
    convert: Convert, c2i: Args, averaged: Args, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An official image tokenizer has no averaged weights beside the ones that it has."""
    with caplog.at_level(logging.INFO, "llamagen_server"):
        convert(out, **c2i | {"gpt_ckpt": averaged["gpt_ckpt"], "weights": "ema"})
    assert is_averaged(out) == (True, False)
    assert "tiny_vq.pt: has model, uses model\n" in caplog.text


def test_averaged_weights_alone(convert: Convert, c2i: Args, averaged: Args, out: Path) -> None:
    for path in averaged.values():
        torch.save({"ema": torch.load(path)["ema"], "steps": 3}, path)
    assert is_averaged(convert(out / "a", **c2i | averaged)) == (True, True)
    assert is_averaged(convert(out / "b", **c2i | averaged, weights="ema")) == (True, True)


def test_choice_that_no_checkpoint_has(
    refused: Callable[..., None], c2i: Args, weights: Weights, averaged: Args, tmp_path: Path
) -> None:
    refused("--weights ema: no checkpoint has them; .*tiny_c2i.pt has model, .*tiny_vq.pt has model", weights="ema")
    for path in averaged.values():
        torch.save({"ema": torch.load(path)["ema"]}, path)
    refused("--weights model: no checkpoint has them; .*gpt.pt has ema, .*vq.pt has ema", weights="model", **averaged)


def test_weights_stay_mapped(c2i: Args, weights: Weights, tmp_path: Path) -> None:
    """Only tensors that share memory are copied, so that a large checkpoint is not read into memory."""
    save_file(weights, tmp_path / "gpt.safetensors")
    torch.save(weights | {"output.weight": weights["tok_embeddings.weight"]}, tmp_path / "tied.pt")
    for name, copied in (("gpt.safetensors", set()), ("tied.pt", {"output.weight", "tok_embeddings.weight"})):
        checkpoint = open_checkpoint(tmp_path / name, GPT, None)
        _, result = read_gpt(checkpoint, ConvertOptions(tmp_path / name, "", "", gpt_config=c2i["gpt_config"]), 8)
        stored = checkpoint.weights.tensors
        moved = {key for key in stored if result[key].data_ptr() != stored[key].data_ptr()}
        assert moved <= copied
        assert len(moved) == len(copied) // 2

"""Conversion of the golden checkpoints, saved in every form that the official code writes or reads."""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llamagen_server.cli import convert as command
from llamagen_server.convert.convert import convert as convert_checkpoints
from llamagen_server.convert.options import ConvertOptions
from llamagen_server.core.sampling import SamplingDefaults
from llamagen_server.model_dir import ModelDir
from llamagen_tokenizer import CheckpointError, VQConfig, VQModel, load_vq

Convert = Callable[..., Path]
Args = dict[str, Any]


def without(flags: Args, name: str) -> Args:
    return {key: value for key, value in flags.items() if key != name}


def edited(source: Path, target: Path, **values: Any) -> Path:
    """Writes a JSON file with other values to ``target``."""
    target.write_text(json.dumps(json.loads(source.read_text()) | values))
    return target


def test_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags become options, and the defaults of both are the same."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    calls: list[ConvertOptions] = []
    monkeypatch.setattr(command, "convert", calls.append)
    required = ["--gpt-ckpt=gpt.pt", "--vq-ckpt=vq.pt", "--out=model"]
    command.run(parser.parse_args(required))
    command.run(parser.parse_args([*required, "--no-clean-caption", "--top-k=5", "--image-size=64"]))
    expected = ConvertOptions("gpt.pt", "vq.pt", "model")
    assert calls == [expected, replace(expected, clean_caption=False, top_k=5, image_size=64)]
    assert "example:\n  llamagen convert --gpt-ckpt " in parser.format_help()


def test_library(c2i: Args, out: Path) -> None:
    model = convert_checkpoints(ConvertOptions(out=out, **c2i))
    assert (model.path, model.vq_path) == (out, out / "vq")
    assert model == ModelDir.open(out)


def test_class_model(convert: Convert, c2i: Args, weights: dict[str, torch.Tensor], out: Path) -> None:
    convert(out, **c2i)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "generation_config.json", "model.safetensors", "vq"]
    config = json.loads((out / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["LlamaGenForCausalLM"], "llamagen")
    assert (config["dtype"], config["dim"], config["n_head"], config["num_classes"]) == ("bfloat16", 128, 4, 10)
    stored = load_file(out / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert all(
        torch.equal(stored[name], tensor) and stored[name].dtype == tensor.dtype for name, tensor in weights.items()
    )
    assert [p.name for p in out.parent.iterdir()] == ["model"]


def test_text_model(convert: Convert, t2i: Args, tiny_t5_dir: Path, out: Path) -> None:
    model = ModelDir.open(convert(out, **t2i))
    assert sorted(p.name for p in (out / "text_encoder").iterdir()) == sorted(p.name for p in tiny_t5_dir.iterdir())
    assert model.defaults == SamplingDefaults(7.5, 1.0, 1000, 1.0)
    assert model.config.text_encoder is None


def test_files_have_the_mode_of_the_umask(convert: Convert, t2i: Args, out: Path) -> None:
    convert(out, **t2i)
    assert {oct(p.stat().st_mode) for p in out.rglob("*") if p.is_file()} == {oct((out / "config.json").stat().st_mode)}


def test_image_tokenizer(convert: Convert, c2i: Args, golden_dir: Path, out: Path) -> None:
    stored = load_vq(convert(out, **c2i) / "vq").state_dict()
    official = torch.load(golden_dir / "tiny_vq.pt")["model"]
    assert all(torch.equal(tensor, official[name].float()) for name, tensor in stored.items())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype(convert: Convert, c2i: Args, weights: dict[str, torch.Tensor], out: Path, dtype: str) -> None:
    stored = load_file(convert(out, dtype=dtype, **c2i) / "model.safetensors")
    assert all(torch.equal(stored[name], tensor.to(getattr(torch, dtype))) for name, tensor in weights.items())
    assert json.loads((out / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("key", ["model", "module", "state_dict", None])
def test_forms_of_checkpoint(
    convert: Convert, c2i: Args, weights: dict[str, torch.Tensor], out: Path, key: str | None, tmp_path: Path
) -> None:
    dirty = weights | {
        "freqs_cis": torch.zeros(65, 16, 2),
        "layers.0.attention.kv_cache.k_cache": torch.zeros(4, 4, 72, 32),
        "layers.0.attention.kv_cache.v_cache": torch.zeros(4, 4, 72, 32),
    }
    trained = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "lr": 1e-4}, "steps": 3, "ema": weights}
    args = argparse.Namespace(image_size=64, downsample_size=8, gpt_model="GPT-B", lr=1e-4, ema=True, dist_url=None)
    torch.save({key: dirty, "args": args} | trained if key else dirty, tmp_path / "0000003.pt")
    (tmp_path / "gpt.json").write_text('{"n_head": 4}')
    c2i = c2i | {"gpt_ckpt": tmp_path / "0000003.pt", "gpt_config": tmp_path / "gpt.json"}
    stored = load_file(convert(out, **c2i) / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert ModelDir.open(out).config.grid_size == 8


def test_odd_tensors(convert: Convert, c2i: Args, weights: dict[str, torch.Tensor], out: Path, tmp_path: Path) -> None:
    """Parameters, views into shared storage and transposed tensors are stored densely; mixed dtypes as the widest."""
    norms = torch.stack([weights[f"layers.{i}.ffn_norm.weight"].float() for i in range(3)])
    odd = weights | {f"layers.{i}.ffn_norm.weight": norms[i] for i in range(3)}
    odd["output.weight"] = weights["output.weight"].T.contiguous().T
    odd["norm.weight"] = torch.nn.Parameter(weights["norm.weight"])
    torch.save({"model": odd}, tmp_path / "odd.pt")
    stored = load_file(convert(out, **c2i | {"gpt_ckpt": tmp_path / "odd.pt"}) / "model.safetensors")
    assert all(torch.equal(stored[name], tensor.float()) for name, tensor in weights.items())


def test_old_file_format(
    convert: Convert, c2i: Args, weights: dict[str, torch.Tensor], out: Path, tmp_path: Path
) -> None:
    torch.save({"model": weights}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert ModelDir.open(convert(out, **c2i | {"gpt_ckpt": tmp_path / "old.pt"})).image_size == 64


def test_averaged_weights_of_the_image_tokenizer_win(
    convert: Convert, c2i: Args, out: Path, golden_dir: Path, tmp_path: Path
) -> None:
    content = torch.load(golden_dir / "tiny_vq.pt")
    content["ema"] = {name: tensor + 1 for name, tensor in content["model"].items()}
    torch.save(content | {"discriminator": {}, "args": argparse.Namespace(ema=True)}, tmp_path / "vq.pt")
    convert(out, **c2i | {"vq_ckpt": tmp_path / "vq.pt"})
    bias = load_vq(out / "vq").state_dict()["quant_conv.bias"]
    assert torch.equal(bias, content["ema"]["quant_conv.bias"].float())


@pytest.mark.parametrize("name", ["VQ-16", "VQ-8"])
def test_released_image_tokenizers_need_no_config(
    convert: Convert, c2i: Args, out: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamagen_tokenizer import CONFIGS

    assert (CONFIGS[name].ch, CONFIGS[name].codebook_size) == (128, 16384)
    small = VQConfig(512, 8, CONFIGS[name].encoder_ch_mult, CONFIGS[name].decoder_ch_mult, z_channels=32, ch=32)
    monkeypatch.setitem(CONFIGS, name, small)  # narrower, to be quick; codebook size is read from the file
    torch.save({"model": VQModel(small).state_dict()}, tmp_path / "vq.pt")
    flags = without(c2i, "vq_config") | {"vq_ckpt": tmp_path / "vq.pt"}
    assert ModelDir.open(convert(out, **flags)).vq_config == small


def test_cleaning_of_captions_can_be_turned_off(convert: Convert, t2i: Args, out: Path) -> None:
    assert ModelDir.open(convert(out / "a", **t2i)).config.clean_caption
    assert not ModelDir.open(convert(out / "b", **t2i, no_clean_caption=True)).config.clean_caption


def test_sampling_defaults(convert: Convert, c2i: Args, t2i: Args, out: Path) -> None:
    assert ModelDir.open(convert(out / "a", **c2i)).defaults == SamplingDefaults(4.0, 1.0, 2000, 1.0)
    flags = {"cfg_scale": 1.5, "temperature": 0.9, "top_k": 0, "top_p": 0.95}
    guidance = {"cfg_min_p": 0.1, "cfg_interval": 20, "cfg_schedule": "cosine"}
    model = ModelDir.open(convert(out / "b", **c2i, **flags, **guidance))
    assert model.defaults == SamplingDefaults(1.5, 0.9, 0, 0.95, 0.1, 20, "cosine")
    with pytest.raises(ValueError, match="top_p is 2.0, must be above 0 and at most 1"):
        convert(out / "c", **c2i, top_p=2)


def test_labels(convert: Convert, c2i: Args, out: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"3": ["hen", "chicken"]}')
    assert ModelDir.open(convert(out, **c2i, labels=tmp_path / "labels.json")).labels == {3: ["hen", "chicken"]}


def test_hub_text_encoder(convert: Convert, t2i: Args, out: Path) -> None:
    model = ModelDir.open(convert(out, **t2i | {"text_encoder": "google/flan-t5-xl"}))
    assert model.text_encoder == "google/flan-t5-xl"
    assert not (out / "text_encoder").exists()


def test_encoder_weights_of_other_frameworks_are_not_copied(
    convert: Convert, t2i: Args, out: Path, tmp_path: Path
) -> None:
    encoder = Path(shutil.copytree(t2i["text_encoder"], tmp_path / "t5"))
    others = {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", ".gitattributes"}
    for name in others:
        (encoder / name).touch()
    convert(out, **t2i | {"text_encoder": encoder})
    assert {p.name for p in encoder.iterdir()} - {p.name for p in (out / "text_encoder").iterdir()} == others


def test_output_must_be_free(convert: Convert, c2i: Args, out: Path) -> None:
    out.mkdir(parents=True)
    convert(out, **c2i)
    with pytest.raises(ValueError, match=r"^--out .*/model: the directory is not empty$"):
        convert(out, **c2i)
    with pytest.raises(ValueError, match=r"^--out .*/config.json: is a file$"):
        convert(out / "config.json", **c2i)


def test_failure_leaves_nothing(convert: Convert, c2i: Args, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llamagen_server.convert.convert.save_vq", full)
    with pytest.raises(ValueError, match=r"^--out .*: cannot be written \(.*No space left on device\)"):
        convert(out, **c2i)
    assert list(out.parent.iterdir()) == []


def test_unsuitable_flags(convert: Convert, c2i: Args, t2i: Args, out: Path, tmp_path: Path) -> None:
    cases = [
        (without(t2i, "text_encoder"), "is a text model, give its text encoder with --text-enc"),
        (t2i | {"text_encoder": "/no/such/dir"}, "--text-encoder /no/such/dir: neither a directory nor a Hugging Face"),
        (t2i | {"text_encoder": tmp_path}, "config.json: no such file"),
        (t2i | {"labels": "x.json"}, "is a text model, it takes no --labels"),
        (c2i | {"text_encoder": "t5"}, "is a class model, it takes no --text-encoder"),
        (c2i | {"labels": "gone.json"}, "gone.json: no such file"),
        (c2i | {"gpt_ckpt": "gone.pt"}, "gone.pt: no such file"),
        (c2i | {"vq_ckpt": "gone.pt"}, "gone.pt: no such file"),
        (c2i | {"gpt_config": "gone.json"}, "gone.json: no such file"),
        (c2i | {"vq_config": "gone.json"}, "gone.json: no such file"),
        (c2i | {"image_size": 128}, "--image-size 128 gives 256 image tokens, but block_size in --gpt-config gives 64"),
        (
            c2i | {"vq_ckpt": c2i["gpt_ckpt"]},
            "tiny_c2i.pt: a GPT checkpoint, which --gpt-ckpt takes; --vq-ckpt takes an",
        ),
        (
            c2i | {"gpt_ckpt": c2i["vq_ckpt"]},
            "tiny_vq.pt: an image tokenizer, which --vq-ckpt takes; --gpt-ckpt takes a",
        ),
        (without(c2i, "gpt_config"), "dim is 128, no official size, so its n_head"),
        (without(c2i, "vq_config"), "not the shape of VQ-16 or VQ-8; describe it with --vq-config"),
    ]
    for flags, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            convert(out, **flags)
        assert "\n" not in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codebook_size": 16384}, "codebook_size is 16384 in --vq-config .*, but 512 in .*tiny_vq.pt"),
        ({"codebook_embed_dim": 4}, "codebook_embed_dim is 4 in --vq-config .*, but 8 in"),
        ({"z_channels": 256}, r"does not fit --vq-config .*: .* has shape \[.*32.*\], expected \[.*256.*\]"),
        ({"num_res_blocks": 3}, "does not fit --vq-config .*tensors are missing, first decoder"),
        ({"ch": 33}, "--vq-config .*: ch is 33, must be a multiple of 32"),
        ({"chs": 32}, "--vq-config .*: unknown VQ config field chs"),
    ],
)
def test_vq_config_that_disagrees(
    convert: Convert, c2i: Args, out: Path, tmp_path: Path, values: Args, message: str
) -> None:
    config = edited(c2i["vq_config"], tmp_path / "vq.json", **values)
    with pytest.raises(ValueError, match=message):
        convert(out, **c2i | {"vq_config": config})


def test_codebook_of_another_model(convert: Convert, golden_args: Callable[[str], Args], out: Path) -> None:
    with pytest.raises(ValueError, match=r"tiny_vq.pt has 512 codes, .*tiny_c2i_hd100.pt was trained on 256"):
        convert(out, **golden_args("tiny_c2i_hd100"))


def test_text_encoder_of_another_width(convert: Convert, t2i: Args, out: Path, tmp_path: Path) -> None:
    encoder = Path(shutil.copytree(t2i["text_encoder"], tmp_path / "t5"))
    edited(encoder / "config.json", encoder / "config.json", d_model=768)
    with pytest.raises(ValueError, match="the text encoder is 768 wide, the model's caption_dim is 64"):
        convert(out, **t2i | {"text_encoder": encoder})


class Payload:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("flag", ["gpt_ckpt", "vq_ckpt"])
def test_code_in_a_checkpoint_is_not_run(
    convert: Convert, c2i: Args, weights: Args, out: Path, tmp_path: Path, flag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save({"model": weights, "args": Payload()}, "evil.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            CheckpointError, match=r"evil.pt: not a checkpoint of plain tensors \(it holds a posix.mkdir\)"
        ) as error:
            convert(out, **c2i | {flag: tmp_path / "evil.pt"})
        assert "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists()


def test_checkpoint_without_weights(convert: Convert, c2i: Args, out: Path, tmp_path: Path) -> None:
    torch.save({"steps": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="no weights under model, module, state_dict, ema; the file has steps"):
        convert(out, **c2i | {"gpt_ckpt": tmp_path / "empty.pt"})


@pytest.mark.parametrize("model_dir", ["class_model_dir", "text_model_dir", "gqa_model_dir", "hd100_model_dir"])
def test_every_golden_model_converts(model_dir: str, request: pytest.FixtureRequest) -> None:
    model = ModelDir.open(request.getfixturevalue(model_dir))
    expected = {"gqa_model_dir": (4, 2, 32), "hd100_model_dir": (2, 2, 100)}.get(model_dir, (4, 4, 32))
    assert (model.config.n_head, model.config.n_kv_head, model.config.branch_head_dim) == expected
    assert model.image_size == 64

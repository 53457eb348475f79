"""Model directories: their contents, and one clear line for every fault."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llamagen_server.core.sampling import SamplingDefaults
from llamagen_server.model_dir import ModelDir, ModelDirError
from llamagen_server.model_dir.labels import imagenet_labels


@pytest.fixture
def class_copy(class_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(class_model_dir, tmp_path / "model"))


@pytest.fixture
def text_copy(text_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(text_model_dir, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(directory: Path) -> None:
    """Splits model.safetensors in two, with an index."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(weights)
    files = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, directory / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_class_model(class_model_dir: Path) -> None:
    model = ModelDir.open(str(class_model_dir))
    assert model.path == class_model_dir
    assert (model.config.condition, model.config.num_classes, model.config.codebook_size) == ("class", 10, 512)
    assert (model.image_size, model.vq_path) == (64, class_model_dir / "vq")
    assert model.defaults == SamplingDefaults(cfg_scale=4.0, temperature=1.0, top_k=2000, top_p=1.0)
    assert model.text_encoder is None
    assert model.labels is None


def test_text_model(text_model_dir: Path) -> None:
    model = ModelDir.open(text_model_dir)
    assert (model.config.condition, model.config.cls_token_num, model.config.caption_dim) == ("text", 120, 64)
    assert model.text_encoder == str(text_model_dir / "text_encoder")
    assert model.defaults == SamplingDefaults(cfg_scale=7.5, temperature=1.0, top_k=1000, top_p=1.0)


@pytest.mark.parametrize("sharded", [False, True])
def test_caption_projection_weights(text_copy: Path, golden_dir: Path, sharded: bool) -> None:
    if sharded:
        shard(text_copy)
    weights = ModelDir.open(text_copy).caption_projection_weights()
    official = torch.load(golden_dir / "tiny_t2i.pt")["model"]
    assert len(weights) == 3
    assert all(torch.equal(tensor, official[name].float()) for name, tensor in weights.items())


def test_sharded(class_copy: Path) -> None:
    shard(class_copy)
    assert ModelDir.open(class_copy).config.n_layer == 3


def test_labels(class_copy: Path) -> None:
    (class_copy / "labels.json").write_text('{"0": ["tench", "Tinca tinca"], "9": "hen"}')
    assert ModelDir.open(class_copy).labels == {0: ["tench", "Tinca tinca"], 9: ["hen"]}


def test_a_class_model_of_1000_classes_has_imagenets_labels(class_copy: Path) -> None:
    weights = load_file(class_copy / "model.safetensors")
    weights["cls_embedding.embedding_table.weight"] = torch.zeros(1001, 128)
    save_file(weights, class_copy / "model.safetensors")
    change(class_copy / "config.json", num_classes=1000)
    assert ModelDir.open(class_copy).labels == imagenet_labels()
    (class_copy / "labels.json").write_text('{"1": "mine"}')
    assert ModelDir.open(class_copy).labels == {1: ["mine"]}
    (class_copy / "labels.json").write_text("{}")
    assert ModelDir.open(class_copy).labels is None


def test_hub_text_encoder(text_copy: Path) -> None:
    shutil.rmtree(text_copy / "text_encoder")
    change(text_copy / "config.json", text_encoder="google/flan-t5-xl")
    assert ModelDir.open(text_copy).text_encoder == "google/flan-t5-xl"


def test_missing_sampling_defaults_are_the_official_ones(class_copy: Path) -> None:
    (class_copy / "generation_config.json").write_text('{"cfg_scale": 1.5, "eos_token_id": 3}')
    assert ModelDir.open(class_copy).defaults == SamplingDefaults(cfg_scale=1.5, temperature=1, top_k=2000, top_p=1)
    (class_copy / "generation_config.json").unlink()
    assert ModelDir.open(class_copy).defaults.cfg_scale == 4.0


Damage = Callable[[Path], object]
"""Damages a model directory."""


def write(name: str, text: str) -> Damage:
    return lambda path: (path / name).write_text(text)


def truncate(name: str) -> Damage:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-100])


def remove(name: str) -> Damage:
    return lambda path: shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()


def config(**values: Any) -> Damage:
    return lambda path: change(path / "config.json", **values)


def check_fault(path: Path, damage: Damage, message: str) -> None:
    """Damages a model directory; the error must be one line that names it."""
    damage(path)
    with pytest.raises(ModelDirError, match=message) as error:
        ModelDir.open(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


CLASS_FAULTS = {
    "no config": (remove("config.json"), "config.json: no such file"),
    "config no JSON": (write("config.json", "{"), r"config.json: not valid JSON \(Expecting"),
    "config no object": (write("config.json", "[1]"), "config.json: holds a list, expected a JSON object"),
    "config no text": (write("config.json", '{"a": "\x00"}'), "config.json: not valid JSON"),
    "another model": (config(model_type="llama"), "config.json: model_type is 'llama', must be 'llamagen'"),
    "no model type": (config(model_type=None), "config.json: model_type is None, must be 'llamagen'"),
    "architecture": (config(architectures=["X"]), r"architectures is \['X'\], must be \['LlamaGenForCausalLM'\]"),
    "dtype": (config(dtype="int8"), "dtype is 'int8', must be 'float32' or 'bfloat16' or 'float16'"),
    "size no number": (config(dim="128"), "config.json: dim is '128', must be a positive integer"),
    "size zero": (config(n_head=0), "config.json: n_head is 0, must be a positive integer"),
    "heads": (config(n_head=3), "config.json: dim 128 is not n_head 3 times a multiple of 4"),
    "condition": (config(condition="video"), "config.json: condition is 'video', must be 'class' or 'text'"),
    "no weights": (remove("model.safetensors"), "model.safetensors: no such file"),
    "cut off": (truncate("model.safetensors"), "model.safetensors: incomplete, it has .* bytes"),
    "no safetensors": (
        write("model.safetensors", "hello"),
        "model.safetensors: text, no weights .it starts with 'hello'",
    ),
    "git lfs": (
        write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "model.safetensors: a Git-LFS pointer; run `git lfs pull`",
    ),
    "layers": (config(n_layer=4), "7 tensors are missing, first layers.3.attention.wqkv.weight"),
    "fewer layers": (config(n_layer=2), "7 unexpected tensors, first layers.2"),
    "classes": (
        config(num_classes=11),
        r"embedding_table.weight has shape \[11, 128\], the config asks for \[12",
    ),
    "no vq": (remove("vq"), "vq/config.json: no such file"),
    "vq no JSON": (write("vq/config.json", "x"), "vq/config.json: not valid JSON"),
    "vq field": (write("vq/config.json", '{"cc": 1}'), "vq/config.json: unknown VQ config field cc"),
    "vq type": (write("vq/config.json", '{"encoder_ch_mult": 5}'), "vq/config.json: .*not iterable"),
    "vq no weights": (remove("vq/model.safetensors"), "vq/model.safetensors: no such file"),
    "vq cut off": (truncate("vq/model.safetensors"), "vq/model.safetensors: incomplete"),
    "vq shape": (lambda path: change(path / "vq/config.json", z_channels=64), r"vq: .* has shape .*, expected .*64"),
    "defaults no JSON": (write("generation_config.json", "?"), "generation_config.json: not valid JSON"),
    "cfg": (write("generation_config.json", '{"cfg_scale": -1}'), "generation_config.json: cfg_scale is -1, must be"),
    "nan": (write("generation_config.json", '{"temperature": NaN}'), "temperature is nan, must be a number from 0"),
    "top_k": (write("generation_config.json", '{"top_k": 1.5}'), "top_k is 1.5, must be an integer from 0"),
    "interval": (
        write("generation_config.json", '{"cfg_interval": -2}'),
        "generation_config.json: cfg_interval is -2, must be an integer from -1",
    ),
    "schedule": (
        write("generation_config.json", '{"cfg_schedule": "up"}'),
        "cfg_schedule is 'up', must be one of constant, linear, cosine",
    ),
    "min_p": (
        write("generation_config.json", '{"cfg_min_p": 1.5}'),
        "generation_config.json: cfg_min_p is 1.5, must be a number from 0 to 1",
    ),
    "top_p": (write("generation_config.json", '{"top_p": 0}'), "top_p is 0, must be above 0 and at most 1"),
    "label id": (write("labels.json", '{"10": "x"}'), "labels.json: '10' is not a class id, allowed are 0 to 9"),
    "label": (write("labels.json", '{"1": []}'), r"labels.json: class 1 has \[\], expected a name or a list of names"),
}


@pytest.mark.parametrize("fault", CLASS_FAULTS)
def test_faults(class_copy: Path, fault: str) -> None:
    damage, message = CLASS_FAULTS[fault]
    check_fault(class_copy, damage, message)


TEXT_FAULTS = {
    "no encoder": (remove("text_encoder"), "text_encoder: no such directory, and config.json names no text_encoder"),
    "no encoder config": (remove("text_encoder/config.json"), "text_encoder/config.json: no such file"),
    "no tokenizer": (remove("text_encoder/tokenizer.json"), "text_encoder: no text tokenizer here, expected one of"),
    "no encoder weights": (remove("text_encoder/model.safetensors"), "text_encoder: no weights here, expected"),
    "another encoder": (
        write("text_encoder/config.json", '{"model_type": "bert"}'),
        "text_encoder/config.json: model_type is 'bert', must be 't5', 'clip' or 'clip_text_model'",
    ),
    "width": (
        write("text_encoder/config.json", '{"model_type": "t5", "d_model": 2048}'),
        "text_encoder/config.json: the text encoder is 2048 wide, the model's caption_dim is 64",
    ),
    "clip width": (
        write("text_encoder/config.json", '{"model_type": "clip", "text_config": {"hidden_size": 768}}'),
        "the text encoder is 768 wide",
    ),
    "caption_dim": (config(caption_dim=32), r"fc1.weight has shape \[128, 64\], the config asks for \[128, 32\]"),
}


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_text_faults(text_copy: Path, fault: str) -> None:
    damage, message = TEXT_FAULTS[fault]
    check_fault(text_copy, damage, message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "index.json: weight_map is None, expected tensor names with their files"),
        (
            {"weight_map": {"norm.weight": "../x"}},
            r"norm.weight is in '../x', expected the name of a file next to",
        ),
        ({"weight_map": {"norm.weight": "gone.safetensors"}}, "gone.safetensors: no such file"),
        ({"weight_map": {"extra": "model-1.safetensors"}}, "model-1.safetensors: tensor extra is missing, .*lists it"),
    ],
)
def test_index_faults(class_copy: Path, values: dict[str, Any], message: str) -> None:
    shard(class_copy)
    (class_copy / "model.safetensors.index.json").write_text(json.dumps(values))
    with pytest.raises(ModelDirError, match=message):
        ModelDir.open(class_copy)


def test_codebook_of_another_model(class_copy: Path, hd100_model_dir: Path) -> None:
    shutil.rmtree(class_copy / "vq")
    shutil.copytree(hd100_model_dir / "vq", class_copy / "vq")
    with pytest.raises(ModelDirError, match=r"vq/config.json: codebook_size is 256, the model has 512 codes"):
        ModelDir.open(class_copy)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelDirError, match=r"/nothing does not exist; a model is a directory with .*llamagen convert"):
        ModelDir.open(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(ModelDirError, match="/file is a file; a model is a directory"):
        ModelDir.open(tmp_path / "file")


def test_reads_no_weights(class_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("tensor data was read")

    monkeypatch.setattr("llamagen_tokenizer.checkpoint.load_safetensors", fail)
    monkeypatch.setattr("llamagen_server.model_dir.directory.read_tensors", fail)
    assert ModelDir.open(class_copy).image_size == 64


def test_faults_of_the_file_system(class_copy: Path) -> None:
    (class_copy / "config.json").unlink()
    (class_copy / "config.json").mkdir()
    with pytest.raises(ModelDirError, match=r"config.json: cannot be read \(Is a directory\)"):
        ModelDir.open(class_copy)


def test_transformers_reads_the_sampling_defaults(class_model_dir: Path) -> None:
    from transformers import GenerationConfig

    generation = GenerationConfig.from_pretrained(class_model_dir)  # the way vLLM reads temperature, top_k and top_p
    assert (generation.temperature, generation.top_k, generation.top_p) == (1.0, 2000, 1.0)

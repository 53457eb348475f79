"""Prompts to rows, with tiny T5 and CLIP encoders."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5EncoderModel

from llamagen_server.stages.text_encoder import MAX_CHARACTERS, TextEncoder

PROMPTS = [
    "a red circle",
    "the small blue star on a large green square",
    "cat",
    "a photo of a dog with a cat in a circle",
]


def rows_of(encoder: TextEncoder, prompts: list[str]) -> list[torch.Tensor]:
    return encoder.encode([encoder.tokenize(prompt) for prompt in prompts])


@pytest.fixture(scope="module")
def t5(tiny_t5_dir: Path) -> TextEncoder:
    return TextEncoder(tiny_t5_dir, max_tokens=120, width=64)


@pytest.fixture(scope="module")
def clip_dir(word_tokenizer: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clip")
    tokenizer = word_tokenizer(["<end>", "<start>", "<unk>"], "<start> $A <end>")
    tokenizer.save_pretrained(directory)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=16, projection_dim=32, bos_token_id=1, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPTextModel(config).save_pretrained(directory)
    return directory


def test_rows_are_those_of_the_padded_official_call(t5: TextEncoder, tiny_t5_dir: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(tiny_t5_dir)(
        PROMPTS, max_length=120, padding="max_length", truncation=True, return_tensors="pt"
    )
    model = T5EncoderModel.from_pretrained(tiny_t5_dir)
    with torch.no_grad():
        expected = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    for rows, padded, mask in zip(rows_of(t5, PROMPTS), expected, tokens["attention_mask"], strict=True):
        assert rows.shape == (mask.sum(), 64)
        torch.testing.assert_close(rows, padded[mask.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_alone_and_in_a_batch_are_the_same(kind: str, t5: TextEncoder, clip_dir: Path) -> None:
    encoder = t5 if kind == "t5" else TextEncoder(clip_dir, max_tokens=120)
    for prompt, rows in zip(PROMPTS, rows_of(encoder, PROMPTS), strict=True):
        torch.testing.assert_close(rows_of(encoder, [prompt])[0], rows, atol=1e-5, rtol=0)


def test_counts_special_tokens(t5: TextEncoder, clip_dir: Path) -> None:
    assert len(rows_of(t5, ["a red circle"])[0]) == 4
    assert len(rows_of(TextEncoder(clip_dir, max_tokens=120), ["a red circle"])[0]) == 5


def test_longest_prompt(t5: TextEncoder) -> None:
    assert len(rows_of(t5, ["cat " * 119])[0]) == 120
    with pytest.raises(ValueError, match="the prompt has 121 tokens, at most 120 are allowed"):
        rows_of(t5, ["cat", "cat " * 120])
    with pytest.raises(ValueError, match=f"the prompt has {MAX_CHARACTERS + 1} characters, at most {MAX_CHARACTERS}"):
        rows_of(t5, ["a" * (MAX_CHARACTERS + 1)])


def test_clip_has_its_own_limit(clip_dir: Path) -> None:
    encoder = TextEncoder(clip_dir, max_tokens=120)
    assert encoder.max_tokens == 16
    with pytest.raises(ValueError, match="the prompt has 17 tokens, at most 16 are allowed"):
        rows_of(encoder, ["cat " * 15])


def test_cleans_if_asked(t5: TextEncoder, tiny_t5_dir: Path) -> None:
    plain = TextEncoder(tiny_t5_dir, max_tokens=120, clean=False)
    clean, raw = "a red circle", "  <b>A Red</b> Circle*** https://a.com/x "
    torch.testing.assert_close(rows_of(t5, [raw])[0], rows_of(t5, [clean])[0])
    assert len(rows_of(plain, [raw])[0]) == 5
    assert rows_of(plain, [raw])[0].shape != rows_of(plain, [clean])[0].shape


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompt(t5: TextEncoder, prompt: str) -> None:
    with pytest.raises(ValueError, match="the prompt is empty$"):
        rows_of(t5, ["cat", prompt])


def test_prompt_that_cleaning_empties(t5: TextEncoder) -> None:
    with pytest.raises(ValueError, match=r"the prompt 'https://a.com/x' is empty after cleaning"):
        rows_of(t5, ["https://a.com/x"])


def test_lone_surrogates_are_an_error_or_repaired(t5: TextEncoder, tiny_t5_dir: Path) -> None:
    assert len(rows_of(t5, ["a \ud800 cat"])[0]) == 4
    with pytest.raises(ValueError, match="not valid Unicode"):
        rows_of(TextEncoder(tiny_t5_dir, max_tokens=120, clean=False), ["a \ud800 cat"])


def test_from_several_threads(t5: TextEncoder) -> None:
    expected = rows_of(t5, PROMPTS)
    with ThreadPoolExecutor(8) as pool:
        for i, rows in enumerate(pool.map(lambda i: rows_of(t5, [PROMPTS[i % 4]])[0], range(64))):
            torch.testing.assert_close(rows, expected[i % 4], atol=1e-5, rtol=0)


def test_rows_have_the_dtype_asked_for_and_no_gradient(tiny_t5_dir: Path) -> None:
    (rows,) = rows_of(TextEncoder(tiny_t5_dir, max_tokens=120, dtype=torch.bfloat16), ["cat"])
    assert rows.dtype == torch.bfloat16
    assert not rows.requires_grad


def test_wrong_width(tiny_t5_dir: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded: it is 64 wide, the model's caption_dim is 2048"):
        TextEncoder(tiny_t5_dir, max_tokens=120, width=2048)


def test_cannot_be_loaded(tiny_t5_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^text encoder 'no/such-encoder' cannot be loaded: .+$") as error:
        TextEncoder("no/such-encoder", max_tokens=120)
    assert "\n" not in str(error.value)
    broken = tmp_path / "t5"
    shutil.copytree(tiny_t5_dir, broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be loaded"):
        TextEncoder(broken, max_tokens=120)


def test_incomplete_weights_are_not_made_up(tiny_t5_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "t5"
    shutil.copytree(tiny_t5_dir, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"tensor encoder.block.1.layer.0.SelfAttention.q.weight is missing"):
        TextEncoder(broken, max_tokens=120)

"""Prompts to hidden states, with tiny T5 and CLIP encoders."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5EncoderModel

from llamagen_server.core.request import MAX_PROMPT
from llamagen_server.stages.text_encoder import TextEncoder

PROMPTS = [
    "a red circle",
    "the small blue star on a large green square",
    "cat",
    "a photo of a dog with a cat in a circle",
]


def hidden_states(encoder: TextEncoder, prompts: list[str]) -> list[torch.Tensor]:
    return encoder.encode_text([encoder.tokenize(prompt) for prompt in prompts])


@pytest.fixture(scope="module")
def t5(tiny_t5_dir: Path) -> TextEncoder:
    return TextEncoder(tiny_t5_dir, max_tokens=120, width=64)


@pytest.fixture(scope="module")
def clip_dir(word_tokenizer: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clip")
    text_tokenizer = word_tokenizer(["<end>", "<start>", "<unk>"], "<start> $A <end>")
    text_tokenizer.save_pretrained(directory)
    config = CLIPTextConfig(
        vocab_size=len(text_tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16, projection_dim=32, bos_token_id=1, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPTextModel(config).save_pretrained(directory)
    return directory


def test_hidden_states_equal_the_padded_official_call(t5: TextEncoder, tiny_t5_dir: Path) -> None:
    tokens = AutoTokenizer.from_pretrained(tiny_t5_dir)(
        PROMPTS, max_length=120, padding="max_length", truncation=True, return_tensors="pt"
    )
    model = T5EncoderModel.from_pretrained(tiny_t5_dir)
    with torch.no_grad():
        expected = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
    for states, padded, mask in zip(hidden_states(t5, PROMPTS), expected, tokens["attention_mask"], strict=True):
        assert states.shape == (mask.sum(), 64)
        torch.testing.assert_close(states, padded[mask.bool()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["t5", "clip"])
def test_a_batch_changes_nothing(kind: str, t5: TextEncoder, clip_dir: Path) -> None:
    encoder = t5 if kind == "t5" else TextEncoder(clip_dir, max_tokens=120)
    for prompt, states in zip(PROMPTS, hidden_states(encoder, PROMPTS), strict=True):
        torch.testing.assert_close(hidden_states(encoder, [prompt])[0], states, atol=1e-5, rtol=0)


def test_counts_special_tokens(t5: TextEncoder, clip_dir: Path) -> None:
    assert len(hidden_states(t5, ["a red circle"])[0]) == 4
    assert len(hidden_states(TextEncoder(clip_dir, max_tokens=120), ["a red circle"])[0]) == 5


def test_longest_prompt(t5: TextEncoder) -> None:
    assert len(hidden_states(t5, ["cat " * 119])[0]) == 120
    with pytest.raises(ValueError, match="the prompt has 121 tokens, at most 120 are allowed"):
        hidden_states(t5, ["cat", "cat " * 120])
    with pytest.raises(ValueError, match=f"the prompt has {MAX_PROMPT + 1} characters, at most {MAX_PROMPT}"):
        hidden_states(t5, ["a" * (MAX_PROMPT + 1)])


def test_clip_has_its_own_limit(clip_dir: Path) -> None:
    encoder = TextEncoder(clip_dir, max_tokens=120)
    assert encoder.max_tokens == 16
    with pytest.raises(ValueError, match="the prompt has 17 tokens, at most 16 are allowed"):
        hidden_states(encoder, ["cat " * 15])


def test_cleaning_is_optional(t5: TextEncoder, tiny_t5_dir: Path) -> None:
    plain = TextEncoder(tiny_t5_dir, max_tokens=120, clean=False)
    clean, raw = "a red circle", "  <b>A Red</b> Circle*** https://a.com/x "
    torch.testing.assert_close(hidden_states(t5, [raw])[0], hidden_states(t5, [clean])[0])
    assert len(hidden_states(plain, [raw])[0]) == 5
    assert hidden_states(plain, [raw])[0].shape != hidden_states(plain, [clean])[0].shape


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompt(t5: TextEncoder, prompt: str) -> None:
    with pytest.raises(ValueError, match="the prompt is empty$"):
        hidden_states(t5, ["cat", prompt])


@pytest.mark.parametrize(
    ("prompt", "removed"),
    [
        ("https://a.com/x", "links, signs"),
        ("一只红色的猫", "ideographs, such as Chinese characters"),
        ("一只红色的猫 https://a.com/x", "ideographs, such as Chinese characters, links, signs"),
        ("@someone", "nicknames, signs"),
        ("<br>", "markup, signs"),
        ("123456", "numbers and codes"),
        ("photo.jpg", "file names and types, signs"),
        ("jpg", "file names and types"),
        ("***", "signs"),
        ("free shipping", "words of web shops"),
    ],
)
def test_prompt_that_cleaning_empties(t5: TextEncoder, tiny_t5_dir: Path, prompt: str, removed: str) -> None:
    message = f"nothing is left of the prompt after cleaning as in training, which removes {removed}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        hidden_states(t5, [prompt])
    assert len(hidden_states(TextEncoder(tiny_t5_dir, max_tokens=120, clean=False), [prompt])[0]) > 0


@pytest.mark.parametrize(
    "prompt", ["一只红色的猫。", "「一只猫」", "一只红色的猫!", "赤い猫", "人々", "高い山、青い空"]
)
def test_prompt_of_which_cleaning_leaves_no_word(t5: TextEncoder, tiny_t5_dir: Path, prompt: str) -> None:
    message = "no word is left of the prompt after cleaning as in training, which removes ideographs, such as Chinese"
    with pytest.raises(ValueError, match=f"^{message}"):
        hidden_states(t5, [prompt])
    assert len(hidden_states(TextEncoder(tiny_t5_dir, max_tokens=120, clean=False), [prompt])[0]) > 0


@pytest.mark.parametrize("prompt", ["red 猫", "猫5", "빨간 猫", "красная 猫。", "りんご", "!!!"])
def test_prompt_of_which_cleaning_leaves_words(t5: TextEncoder, prompt: str) -> None:
    """Signs and kana without ideographs stay as they are, as in training."""
    assert len(hidden_states(t5, [prompt])[0]) > 1


def test_lone_surrogates_are_an_error_or_repaired(t5: TextEncoder, tiny_t5_dir: Path) -> None:
    assert len(hidden_states(t5, ["a \ud800 cat"])[0]) == 4
    with pytest.raises(ValueError, match="not valid Unicode"):
        hidden_states(TextEncoder(tiny_t5_dir, max_tokens=120, clean=False), ["a \ud800 cat"])


def test_from_several_threads(t5: TextEncoder) -> None:
    expected = hidden_states(t5, PROMPTS)
    with ThreadPoolExecutor(8) as pool:
        for i, states in enumerate(pool.map(lambda i: hidden_states(t5, [PROMPTS[i % 4]])[0], range(64))):
            torch.testing.assert_close(states, expected[i % 4], atol=1e-5, rtol=0)


def test_hidden_states_have_the_requested_dtype_and_no_gradient(tiny_t5_dir: Path) -> None:
    (states,) = hidden_states(TextEncoder(tiny_t5_dir, max_tokens=120, dtype=torch.bfloat16), ["cat"])
    assert states.dtype == torch.bfloat16
    assert not states.requires_grad


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


def test_incomplete_weights_are_refused(tiny_t5_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "t5"
    shutil.copytree(tiny_t5_dir, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["encoder.block.1.layer.0.SelfAttention.q.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"tensor encoder.block.1.layer.0.SelfAttention.q.weight is missing"):
        TextEncoder(broken, max_tokens=120)

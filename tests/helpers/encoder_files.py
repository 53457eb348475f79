"""Small text encoders as files: a T5 with random weights, and text tokenizers of whole words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def make_word_tokenizer(special: list[str], template: str) -> PreTrainedTokenizerFast:
    """Returns a text tokenizer of whole words; ``special`` starts with the padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [
        "a", "the", "red", "green", "blue", "small", "large", "circle", "square", "star", "on", "in", "left", "right",
        "of", "and", "with", "photo", "cat", "dog",
    ]  # fmt: skip
    vocab = {token: i for i, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, vocab[token]) for token in special if token in template.split()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], unk_token="<unk>")


def write_t5(directory: Path, width: int, layers: int) -> None:
    """Writes a T5 encoder with random weights and its text tokenizer, whose captions end in ``</s>``."""
    import torch
    from transformers import T5Config, T5EncoderModel

    tokenizer = make_word_tokenizer(["<pad>", "</s>", "<unk>"], "$A </s>")
    tokenizer.save_pretrained(directory)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=16, d_ff=96, num_layers=layers, num_heads=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        T5EncoderModel(config).save_pretrained(directory)

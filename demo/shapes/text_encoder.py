"""A small T5 text encoder and its text tokenizer, both in the Hugging Face format."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from demo.shapes.captions import sample_caption
from demo.shapes.scenes import sample_scene

VOCAB_SIZE = 512
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def train_text_tokenizer(max_length: int, seed: int = 0, captions: int = 5000) -> PreTrainedTokenizerFast:
    """Trains a lower-casing, byte-level BPE tokenizer on random captions.

    It encodes any text, ends it with ``</s>`` and pads on the right with id 0.

    Args:
        max_length: maximum number of text tokens of a caption, ``</s>`` included.
        captions: number of captions to train on.
    """
    tokenizer = _byte_level_bpe()
    rng = random.Random(seed)
    texts = (sample_caption(rng, sample_scene(rng)).text for _ in range(captions))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )


def _byte_level_bpe() -> Tokenizer:
    """An untrained BPE tokenizer of lower-case bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def t5_config(dim: int) -> T5Config:
    return T5Config(
        vocab_size=VOCAB_SIZE,
        d_model=dim,
        d_kv=40,
        d_ff=384,
        num_layers=3,
        num_decoder_layers=0,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )


class TextEncoder(nn.Module):
    """Encodes captions as hidden states. It moves the padding to the left, as LlamaGen's samplers do."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, model: T5EncoderModel, max_length: int) -> None:
        super().__init__()
        self.tokenizer, self.model, self.max_length = tokenizer, model, max_length

    @classmethod
    def from_scratch(cls, dim: int, max_length: int, seed: int = 0) -> TextEncoder:
        """A text encoder with random weights and a newly trained text tokenizer."""
        return cls(train_text_tokenizer(max_length, seed), T5EncoderModel(t5_config(dim)), max_length)

    def save(self, directory: Path) -> None:
        """Writes the model and the text tokenizer to one Hugging Face directory."""
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def forward(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encodes captions, padded on the left to the T tokens of the longest one.

        Returns:
            Hidden states [B, T, d_model], zero where padded, and a mask, bool [B, T], false where padded.
        """
        batch = self.tokenizer(
            list(captions), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        valid = batch["attention_mask"].bool()
        hidden = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        order = valid.long().argsort(dim=1, stable=True)  # padding first; the stable sort keeps the order of the tokens
        hidden = hidden.gather(1, order[..., None].expand_as(hidden))
        valid = valid.gather(1, order)
        return hidden * valid[..., None], valid

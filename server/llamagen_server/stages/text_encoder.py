"""The text encoder of a text model: prompts to hidden states."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llamagen_server.core.request import MAX_PROMPT
from llamagen_server.model_dir.encoder_files import encoder_width
from llamagen_server.stages.caption_cleaning import clean_caption, lost_its_words, removed_kinds


class TextEncoder:
    """A T5 or CLIP text encoder with its text tokenizer. Safe to use from several threads."""

    def __init__(
        self,
        source: str | Path,
        *,
        max_tokens: int,
        clean: bool = True,
        width: int | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Loads an encoder.

        Args:
            source: directory or Hugging Face id.
            max_tokens: longest prompt, special tokens included (the model's cls_token_num); CLIP's own limit is 77.
            clean: run `clean_caption` on every prompt.
            width: the width that the encoder must have (the model's caption_dim); None allows any.

        Raises:
            ValueError: it cannot be loaded, is neither T5 nor CLIP, or has another width.
        """
        try:
            model, self._text_tokenizer, self.width = _load(str(source), width, dtype)
        except Exception as error:  # a damaged file can raise almost anything in transformers
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(f"text encoder {str(source)!r} cannot be loaded: {reason}") from None
        self.max_tokens = min(max_tokens, getattr(model.config, "max_position_embeddings", max_tokens))
        self._model = model.to(device).eval()
        self._clean = clean
        self.truncates = False
        """Cuts long prompts, as the official pipeline does, instead of refusing them."""
        self._text_tokenizer_lock = threading.Lock()  # Hugging Face tokenizers are not thread-safe

    def tokenize(self, prompt: str) -> Tensor:
        """Returns the token ids of a prompt, special tokens included, int64 [n].

        The official pipeline truncates long prompts silently; here they are an error unless `truncates` is set.

        Raises:
            ValueError: the prompt is empty or too long.
        """
        text = self._prepare(prompt)
        with self._text_tokenizer_lock:
            ids = self._text_tokenizer(text, truncation=self.truncates, max_length=self.max_tokens, verbose=False)[
                "input_ids"
            ]
        if len(ids) > self.max_tokens:
            raise ValueError(f"the prompt has {len(ids)} tokens, at most {self.max_tokens} are allowed")
        return torch.tensor(ids)

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[Tensor]) -> list[Tensor]:
        """Token ids of prompts, each int64 [n] -> hidden states of their tokens, each [n, width]; one forward pass."""
        device = next(self._model.parameters()).device
        # Padding is on the right and masked, so any id will do.
        ids = pad_sequence(list(prompts), batch_first=True)
        mask = pad_sequence([torch.ones_like(t) for t in prompts], batch_first=True)
        hidden = self._model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state
        return [states[: len(t)].clone() for states, t in zip(hidden, prompts, strict=True)]

    def _prepare(self, prompt: str) -> str:
        if len(prompt) > MAX_PROMPT:
            raise ValueError(f"the prompt has {len(prompt)} characters, at most {MAX_PROMPT} are allowed")
        if not prompt.strip():
            raise ValueError("the prompt is empty")
        text = clean_caption(prompt) if self._clean else prompt.lower().strip()  # as the official T5Embedder
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError("the prompt is not valid Unicode, it has half of a surrogate pair")
        if not text or (self._clean and lost_its_words(prompt, text)):
            left, removed = "no word" if text else "nothing", ", ".join(removed_kinds(prompt))
            raise ValueError(f"{left} is left of the prompt after cleaning as in training, which removes {removed}")
        return text


def _load(source: str, width: int | None, dtype: torch.dtype) -> tuple[Any, Any, int]:
    """Returns the encoder, its text tokenizer and its width."""
    # Imported here: it takes seconds, and class models need none of it.
    from transformers import AutoConfig, AutoTokenizer, CLIPTextModel, T5EncoderModel

    config = AutoConfig.from_pretrained(source)
    found = encoder_width(config.to_dict())
    if found != (width or found):
        raise ValueError(f"it is {found} wide, the model's caption_dim is {width}")
    encoder_class = T5EncoderModel if config.model_type == "t5" else CLIPTextModel
    model, report = encoder_class.from_pretrained(source, dtype=dtype, output_loading_info=True)
    if report["missing_keys"]:
        raise ValueError(f"tensor {min(report['missing_keys'])} is missing")
    return model, AutoTokenizer.from_pretrained(source), found

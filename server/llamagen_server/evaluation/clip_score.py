"""CLIP score: how well images fit their captions (arXiv 2104.08718)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llamagen_server.core.results import Pixels
from llamagen_server.stages.exact_float32 import exact_float32

PREFIX = "A photo depicts "
"""Put before each caption, as in the paper of the score and in LlamaGen's evaluation."""


class ClipScorer:
    """Cosine similarity of images and captions in a CLIP model."""

    def __init__(self, directory: Path, device: torch.device, prefix: str = PREFIX) -> None:
        """Loads a directory as ``CLIPModel.save_pretrained`` writes it, with its tokenizer and image processor.

        Raises:
            ValueError: the directory is no CLIP model.
        """
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        if not (directory / "config.json").is_file():
            raise ValueError(f"--clip {directory}: no CLIP model here (config.json is missing)")
        try:
            self._model: Any = CLIPModel.from_pretrained(directory, local_files_only=True).eval().to(device)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            # torchvision, which the other backend needs, may be absent
            self._processor: Any = AutoImageProcessor.from_pretrained(directory, local_files_only=True, backend="pil")
        except (OSError, ValueError) as error:
            raise ValueError(f"--clip {directory}: {str(error).splitlines()[0]}") from None
        self._max_tokens = self._model.config.text_config.max_position_embeddings
        self._device, self._prefix = device, prefix

    def __call__(self, batches: Iterable[Pixels], captions: Sequence[str]) -> float:
        """Batches of images [B, height, width, 3], with one caption for each image -> the mean similarity, -1 to 1."""
        scores: list[NDArray[np.float64]] = []
        done = 0
        for batch in batches:
            scores.append(self.batch(batch, captions[done : done + len(batch)]))
            done += len(batch)
        return float(np.concatenate(scores).mean())

    @exact_float32()
    @torch.inference_mode()
    def batch(self, pixels: Pixels, captions: Sequence[str]) -> NDArray[np.float64]:
        """Images [B, height, width, 3], uint8, and their captions -> cosine similarities [B]."""
        texts = [self._prefix + caption for caption in captions]
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._device)
        images = self._processor(list(pixels), return_tensors="pt")["pixel_values"].to(self._device)
        found = self._model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=images)
        similarity = torch.cosine_similarity(found.image_embeds.double(), found.text_embeds.double())
        return similarity.cpu().numpy()

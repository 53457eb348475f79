"""Quality of an image tokenizer: codebook usage, and how close its reconstructions are to the images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from llamagen_server.core.results import Pixels
from llamagen_server.evaluation.codebook import CodebookUsage
from llamagen_server.evaluation.features import FeatureExtractor, Features
from llamagen_server.evaluation.ordered_threads import in_threads
from llamagen_server.evaluation.reconstruction import psnr, ssim
from llamagen_server.evaluation.statistics import Statistics, frechet_distance
from llamagen_server.image_files.sheet import contact_sheet
from llamagen_server.stages.exact_float32 import exact_float32
from llamagen_tokenizer import VQModel, from_uint8, to_uint8

logger = logging.getLogger(__name__)

Lpips = Callable[[Tensor, Tensor], Tensor]
"""Images [B, 3, H, W] in [-1, 1] and others -> distances [B, ...]."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Measurements of one batch of images."""

    codes: NDArray[np.int64]
    images: Pixels
    """[B, height, width, 3], as compared."""
    reconstructions: Pixels
    metrics: dict[str, NDArray[np.float64]]
    """By name, [B]."""
    features: tuple[tuple[Features, Features], tuple[Features, Features]] | None
    """Pooled and spatial, of the images and of the reconstructions."""


@dataclass(eq=False)
class TokenizerEvaluation:
    """Encodes and decodes images in float32, and measures what comes out."""

    vq: VQModel
    extractor: FeatureExtractor | None = None
    lpips: Lpips | None = None
    eval_side: int | None = None
    """Side to which images and reconstructions are resized before they are compared; None: as they are."""
    sheet_images: int = 8
    """Images on the reconstruction sheet."""
    usage: CodebookUsage = field(init=False)
    _pairs: list[tuple[Pixels, Pixels]] = field(init=False)

    def run(
        self, batches: Iterable[Pixels], workers: int = 1, on_reconstructions: Callable[[Pixels], None] | None = None
    ) -> dict[str, float]:
        """Batches of images [B, height, width, 3], uint8 -> the figures by name; ``usage`` has the counts.

        Args:
            workers: batches that are measured at a time.
            on_reconstructions: called with the reconstructions [B, height, width, 3], uint8, of each batch, in order.
        """
        self.usage, self._pairs = CodebookUsage(self.vq.config.codebook_size), []
        metrics: dict[str, list[NDArray[np.float64]]] = {}
        features = []
        for batch in in_threads(self.measure, batches, workers):
            self.usage.add(batch.codes)
            for name, values in batch.metrics.items():
                metrics.setdefault(name, []).append(values)
            missing = self.sheet_images - len(self._pairs)
            self._pairs.extend(zip(batch.images[:missing], batch.reconstructions[:missing]))
            if batch.features:
                features.append(batch.features)
            if on_reconstructions:
                on_reconstructions(batch.reconstructions)
        figures = {name: float(np.concatenate(values).mean()) for name, values in metrics.items()}
        usage = self.usage
        return {
            **figures,
            **_distances(features),
            "codes_used": usage.used,
            "usage": usage.share,
            "perplexity": usage.perplexity,
        }

    @exact_float32()
    @torch.inference_mode()
    def measure(self, pixels: Pixels) -> Batch:
        """Measures images [B, height, width, 3], uint8."""
        images = from_uint8(torch.from_numpy(pixels).to(next(self.vq.parameters()).device))
        codes = self.vq.encode(images)
        originals, reconstructions = to_uint8(self._resize(images)), to_uint8(self._resize(self.vq.decode(codes)))
        pair = [x.permute(0, 3, 1, 2).float() for x in (originals, reconstructions)]
        metrics = {"psnr": psnr(*pair), "ssim": ssim(*pair)}
        if self.lpips:
            metrics["lpips"] = self.lpips(from_uint8(originals), from_uint8(reconstructions)).flatten()
        seen, decoded = originals.cpu().numpy(), reconstructions.cpu().numpy()
        return Batch(
            codes.cpu().numpy(),
            seen,
            decoded,
            {name: values.double().cpu().numpy() for name, values in metrics.items()},
            (self.extractor.batch(seen), self.extractor.batch(decoded)) if self.extractor else None,
        )

    def _resize(self, images: Tensor) -> Tensor:
        """Resizes images [B, 3, H, W] as the official ``reconstruction_vq_ddp.py`` and samplers do, before rounding."""
        side = self.eval_side
        return images if side is None else F.interpolate(images, (side, side), mode="bicubic")

    def sheet(self) -> Pixels:
        """Returns the first images in one row, and their reconstructions below."""
        images, reconstructions = zip(*self._pairs)
        return contact_sheet([*images, *reconstructions], columns=len(images))


def _distances(features: list[tuple[tuple[Features, Features], tuple[Features, Features]]]) -> dict[str, float]:
    """Returns the Fréchet distances of the reconstructions to the images, of pooled and of spatial features."""
    if sum(len(originals[0]) for originals, _ in features) < 2:
        return {}
    found = {}
    for i, name in enumerate(("rfid", "rsfid")):
        images, reconstructions = (np.concatenate([batch[side][i] for batch in features]) for side in (0, 1))
        found[name] = frechet_distance(Statistics.of(images), Statistics.of(reconstructions))
    return found


def load_lpips(device: torch.device) -> Lpips | None:
    """Loads LPIPS (arXiv 1801.03924) with VGG. Returns None, and logs why, if it is not installed or lacks weights."""
    try:
        import lpips

        model: Any = lpips.LPIPS(net="vgg", verbose=False).eval().to(device)
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: a torchvision for another torch
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.info("LPIPS is left out (%s); pip install lpips", reason)
        return None
    return lambda a, b: model(a, b)

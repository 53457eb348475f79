"""Quality of samples: FID, sFID, Inception Score, precision and recall, CLIP score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamagen_server.core.results import Pixels
from llamagen_server.evaluation.clip_score import ClipScorer
from llamagen_server.evaluation.features import FeatureExtractor, ImageFeatures
from llamagen_server.evaluation.image_folder import ImageFolder
from llamagen_server.evaluation.image_sets import ImageSet
from llamagen_server.evaluation.manifold import precision_recall
from llamagen_server.evaluation.progress import progress
from llamagen_server.evaluation.reference import Reference
from llamagen_server.evaluation.statistics import Statistics, frechet_distance, inception_score


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What to measure, and with what."""

    samples: ImageSet
    reference: Reference | None
    extractor: FeatureExtractor | None
    clip: ClipScorer | None
    captions: Sequence[str]
    batch_size: int

    def run(self) -> dict[str, float]:
        """Returns the figures by name.

        Raises:
            ValueError: an image cannot be read, or the statistics of the reference have another number of features.
        """
        figures: dict[str, float] = {}
        if self.extractor:
            features = self._features(self.extractor, self.samples, "samples")
            figures["inception_score"] = inception_score(self.extractor.probabilities(features.pooled))
            if self.reference:
                figures = self._compare(self.extractor, features, self.reference) | figures
        if self.clip:
            figures["clip_score"] = self.clip(self._batches(self.samples, "CLIP score"), self.captions)
        return figures

    def _compare(self, extractor: FeatureExtractor, samples: ImageFeatures, reference: Reference) -> dict[str, float]:
        images = self._features(extractor, reference.images, "reference") if reference.images else None
        pooled, spatial = reference.pooled, reference.spatial
        if images and not pooled:
            pooled, spatial = Statistics.of(images.pooled), Statistics.of(images.spatial)
        assert pooled  # a reference has images or statistics
        figures = {"fid": frechet_distance(Statistics.of(samples.pooled), pooled)}
        if spatial:
            figures["sfid"] = frechet_distance(Statistics.of(samples.spatial), spatial)
        if images:
            found = precision_recall(images.pooled, samples.pooled, extractor.device)
            figures["precision"], figures["recall"] = found
        return figures

    def _features(self, extractor: FeatureExtractor, images: ImageSet, title: str) -> ImageFeatures:
        return extractor(self._batches(images, title))

    def _batches(self, images: ImageSet, title: str) -> Iterator[Pixels]:
        return progress(images.batches(self.batch_size), images.count, title)


def read_captions(images: ImageSet, file: Path | None) -> list[str]:
    """Returns one caption for each image: the lines of a file, or the text ``prompt`` in the PNG files of a folder.

    Raises:
        ValueError: there are not as many captions as images.
    """
    if file:
        with file.open(encoding="utf-8") as lines:
            captions = [line.rstrip("\n") for line in lines]
        if len(captions) != images.count:
            raise ValueError(f"--captions {file}: {len(captions)} lines for {images.count} images")
        return captions
    found = images.captions() if isinstance(images, ImageFolder) else [None] * images.count
    if missing := found.count(None):
        raise ValueError(
            f"{images.path}: {missing} of {images.count} images have no caption (the text `prompt` of a PNG); "
            "give --captions"
        )
    return [caption for caption in found if caption is not None]

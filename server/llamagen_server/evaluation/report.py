"""Reports of evaluations: for JSON, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llamagen_server.evaluation.clip_score import PREFIX
from llamagen_server.evaluation.evaluate import Evaluation
from llamagen_server.evaluation.image_sets import ImageSet
from llamagen_server.evaluation.paper import differences, find_paper_model
from llamagen_server.evaluation.reference import Reference
from llamagen_server.evaluation.settings import file_sha256
from llamagen_server.hub.catalogue import MODELS

NETWORK_RESIZE = "bilinear to 299x299 as TensorFlow 1 (no antialiasing, no half-pixel centres)"
TITLES = {
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "Inception Score",
    "precision": "precision",
    "recall": "recall",
    "clip_score": "CLIP score",
    "rfid": "rFID",
    "rsfid": "rsFID",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "codes_used": "codes used",
    "usage": "share of the codebook used",
    "perplexity": "perplexity of the codes",
}


def describe(images: ImageSet) -> dict[str, Any]:
    """Describes a set of images for a report."""
    height, width = images.size
    return {
        "name": images.path.name,
        "sha256": images.sha256(),
        "images": images.count,
        "size": f"{width}x{height}",
        "resize": images.resize,
        "settings": images.settings(),
    }


def describe_reference(reference: Reference) -> dict[str, Any]:
    """Describes a reference for a report."""
    images = reference.images
    return {
        "name": reference.path.name,
        "sha256": reference.sha256(),
        "images": images.count if images else 0,
        "size": f"{images.size[1]}x{images.size[0]}" if images else None,
        "resize": images.resize if images else None,
        "statistics": "stored in the file" if reference.pooled else "computed from the images",
    }


def make_report(
    evaluation: Evaluation,
    figures: dict[str, float],
    model: str | None = None,
    inception: Path | None = None,
    clip: Path | None = None,
) -> dict[str, Any]:
    """Returns the report of an evaluation, ready for JSON.

    Args:
        model: name of the model, for the paper's figure; by default the one in the samples' settings.
        inception: the file of the Inception network's weights.
        clip: the directory of the CLIP model.
    """
    samples = describe(evaluation.samples)
    name = find_paper_model(model or samples["settings"].get("model"))
    paper = MODELS[name] if name else None
    known = {"fid": paper.fid, "inception_score": paper.inception_score, "cfg_scale": paper.cfg_scale} if paper else {}
    return {
        "figures": figures,
        "samples": samples,
        "reference": describe_reference(evaluation.reference) if evaluation.reference else None,
        "inception": describe_weights(inception) if inception else None,
        "clip": {"name": clip.name, "before each caption": PREFIX} if clip else None,
        "paper": {"model": name, **known} if paper else None,
        "differences": differences(paper, samples["settings"], evaluation.samples.count, evaluation.samples.size)
        if paper
        else [],
    }


def describe_weights(file: Path) -> dict[str, str]:
    """Describes the file of the Inception weights for a report."""
    return {"name": file.name, "sha256": file_sha256(file), "resize": NETWORK_RESIZE}


def markdown(report: Mapping[str, Any], title: str) -> str:
    """Returns a report as Markdown: the figures, the paper's beside them if it is known, and what was compared."""
    paper = report.get("paper")
    headings = ["", "measured", *([f"paper, {paper['model']}"] if paper else [])]
    rows = [
        [TITLES[name], number(value), *([number(paper[name]) if paper.get(name) else ""] if paper else [])]
        for name, value in report["figures"].items()
    ]
    parts = [f"# {title}", table(headings, rows), table(["", ""], _facts(report))]
    if report.get("differences"):
        parts.append("Other than in the paper:\n\n" + "\n".join(f"- {line}" for line in report["differences"]))
    return "\n\n".join(parts) + "\n"


def _facts(report: Mapping[str, Any]) -> Iterable[list[str]]:
    for section in ("samples", "reference", "images", "image tokenizer", "inception", "clip"):
        for name, value in (report.get(section) or {}).items():
            if isinstance(value, Mapping):
                value = ", ".join(f"{key} {setting}" for key, setting in value.items())
            if value not in (None, ""):
                yield [section if name == "name" else f"{section}: {name}", str(value)]


def table(headings: list[str], rows: Iterable[list[str]]) -> str:
    """Returns a Markdown table."""
    cells = ([cell.replace("|", "\\|") for cell in line] for line in [headings, *rows])
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([lines[0], "|---" * len(headings) + "|", *lines[1:]])


def number(value: float) -> str:
    """Returns a number with four digits, a whole one with all of them."""
    return str(value) if isinstance(value, int) or abs(value) >= 1e4 else f"{value:#.4g}".rstrip(".")

"""``llamagen tokenizer eval``: codebook usage and reconstructions of an image tokenizer."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamagen_server.cli.eval import add_inception, add_output, check_output, write_report

if TYPE_CHECKING:
    import torch

    from llamagen_server.core.results import Pixels
    from llamagen_server.evaluation.tokenizer import TokenizerEvaluation
    from llamagen_tokenizer import VQModel

logger = logging.getLogger(__name__)

IMAGE_SIZE = 256
"""Side of the images for an image tokenizer without a language model, which states the side otherwise."""

EXAMPLE = """examples:
  llamagen tokenizer eval photos
  llamagen tokenizer eval models/c2i-b imagenet/val --inception pt_inception-2015-12-05-6726825d.pth --out report
  llamagen tokenizer eval --vq-ckpt vq-ds16-c2i imagenet/val --image-size 384"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "words",
        metavar="MODEL | IMAGES",
        nargs="+",
        type=Path,
        help="a model directory, its vq/ or an official name (default: the demo model), then images and folders",
    )
    add("--vq-ckpt", type=Path, metavar="FILE|DIR", help="a checkpoint or an official name, in place of MODEL")
    add("--vq-config", metavar="F.json", help="its shape, as for `llamagen convert`")
    add(
        "--image-size",
        type=int,
        metavar="N",
        help="side to which images are cropped and resized (default: the model's, or 256)",
    )
    add(
        "--image-size-eval",
        type=int,
        metavar="N",
        help="side to which images and reconstructions are then resized to compare them (default: as they are)",
    )
    add_inception(parser)
    add("--reconstructions", type=Path, metavar="F.npz", help="write the reconstructions, for `llamagen eval`")
    add("--sheet-images", type=int, default=8, help="images on the sheet of reconstructions (default: %(default)s)")
    add_output(parser, "report.md, report.json, reconstructions.png and codebook.png")


def run(args: argparse.Namespace) -> None:
    """Measures, logs the report and writes it.

    Raises:
        ValueError: an argument or a file is wrong.
    """
    from llamagen_server.evaluation.image_folder import ImageFolder, find_images
    from llamagen_server.evaluation.progress import progress
    from llamagen_server.evaluation.report import describe_weights
    from llamagen_server.pipeline.build import stage_device

    device = stage_device()
    batch_size = check_output(args, device)
    model, paths = split_words(args.words, args.vq_ckpt)
    vq, name, side = load_image_tokenizer(model, args.vq_ckpt, args.vq_config)
    images = ImageFolder(find_images(paths), args.image_size or side, paths[0])
    evaluation, workers = _prepare(args, vq, device)
    has_plot = bool(args.out) and can_plot()
    described = {"name": name, "codes": vq.config.codebook_size, "downsampling": vq.config.downsample}
    batches = progress(images.batches(batch_size), images.count, "images")
    with _writer(args.reconstructions, args.image_size_eval or images.size[0], images.count, described) as add:
        figures = evaluation.run(batches, workers, add)
    seen = {"images": images.count, "resize": images.resize, "compared at": args.image_size_eval}
    report = {
        "figures": figures,
        "image tokenizer": described,
        "images": {"name": ", ".join(map(str, paths)), **seen},
        "inception": describe_weights(args.inception) if args.inception else None,
    }
    write_report(report, "Image tokenizer", args.out)
    if args.out:
        _write_files(evaluation, args.out, has_plot)


def _prepare(args: argparse.Namespace, vq: VQModel, device: torch.device) -> tuple[TokenizerEvaluation, int]:
    """Loads the networks. Returns the evaluation, and the batches that it measures at a time."""
    from llamagen_server.engine import cpu
    from llamagen_server.evaluation.features import FeatureExtractor
    from llamagen_server.evaluation.inception import load_inception
    from llamagen_server.evaluation.tokenizer import TokenizerEvaluation, load_lpips

    workers = 1
    if device.type == "cpu":
        workers = cpu.tune_process(sum(weight.numel() for weight in vq.parameters()))
    evaluation = TokenizerEvaluation(
        vq=vq.to(device),
        extractor=FeatureExtractor(load_inception(args.inception), device) if args.inception else None,
        lpips=load_lpips(device),
        eval_side=args.image_size_eval,
        sheet_images=args.sheet_images,
    )
    return evaluation, workers


def split_words(words: list[Path], checkpoint: Path | None) -> tuple[Path | None, list[Path]]:
    """Returns model and images. The first word is the model if it is a folder with ``config.json``, or a name.

    Raises:
        ValueError: there are no images, or two image tokenizers.
    """
    from llamagen_server.hub.names import is_like_name

    first = words[0]
    has_model = (first / "config.json").is_file() or (not first.exists() and is_like_name(str(first)))
    model, images = (first, words[1:]) if has_model else (None, words)
    if model and checkpoint:
        raise ValueError(f"give a model ({model}) or --vq-ckpt ({checkpoint}), not both")
    if not images:
        raise ValueError(f"{model}: no images are given to measure it with")
    return model, images


def load_image_tokenizer(
    model: Path | None, checkpoint: Path | None, config_file: str | None
) -> tuple[VQModel, str, int]:
    """Loads the image tokenizer of a model directory, its ``vq/`` or a checkpoint, in float32, on the CPU.

    Returns:
        The network, its name, and the side of its images in pixels.
    """
    from llamagen_server.convert.checkpoint import open_checkpoint
    from llamagen_server.convert.vq import read_vq
    from llamagen_server.hub.names import resolve_checkpoint
    from llamagen_server.pipeline.build import open_model, public_name
    from llamagen_tokenizer import load_vq
    from llamagen_tokenizer.state_dict import VQ

    if checkpoint:
        network = read_vq(open_checkpoint(resolve_checkpoint(checkpoint), VQ, None), config_file)
        return network.float(), checkpoint.name, IMAGE_SIZE
    if model and model.is_dir() and not (model / "vq").is_dir():
        return load_vq(model), str(model), IMAGE_SIZE
    directory = open_model(model)
    return load_vq(directory.vq_path), public_name(directory), directory.image_size


def can_plot() -> bool:
    """Whether matplotlib is there; if not, a line of log says so."""
    from llamagen_server.image_files.figure import figure_class

    try:
        figure_class()
    except ValueError as error:
        logger.info("codebook.png is left out: %s", error)
        return False
    return True


@contextmanager
def _writer(
    path: Path | None, side: int, count: int, settings: dict[str, Any]
) -> Iterator[Callable[[Pixels], None] | None]:
    """Gives the function that adds reconstructions to the file, if one is asked for."""
    from llamagen_server.evaluation.npz_images import npz_writer

    if path is None:
        yield None
        return
    with npz_writer(path, (count, side, side, 3), {"reconstructions of": settings}) as add:
        yield add


def _write_files(evaluation: TokenizerEvaluation, out: Path, has_plot: bool) -> None:
    from llamagen_server.evaluation.codebook import plot_usage
    from llamagen_server.image_files.writing import make_image_file

    (out / "reconstructions.png").write_bytes(make_image_file(evaluation.sheet()))
    if has_plot:
        plot_usage(evaluation.usage, out / "codebook.png")

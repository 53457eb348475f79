"""``llamagen eval``: quality of samples."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from llamagen_server.evaluation.evaluate import Evaluation

logger = logging.getLogger(__name__)

BATCH = {"cpu": 8, "cuda": 32}
"""Images at a time, by device."""

EXAMPLE = """examples:
  llamagen eval samples.npz --reference VIRTUAL_imagenet256_labeled.npz --inception pt_inception-2015-12-05-6726825d.pth
  llamagen eval images --clip models/clip-vit-base-patch32 --captions captions.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("samples", type=Path, metavar="SAMPLES", help="an .npz with the images arr_0, or a folder of images")
    add(
        "--reference",
        type=Path,
        metavar="F.npz|DIR",
        help="what to compare with: an .npz of ADM's form (arr_0; mu, sigma, mu_s, sigma_s; or both), or a folder",
    )
    add_inception(parser)
    add("--clip", type=Path, metavar="DIR", help="a CLIP model in Hugging Face's format, for the CLIP score")
    add(
        "--captions",
        type=Path,
        metavar="F.txt",
        help="one caption a line, in the order of the images (default: the text `prompt` in PNG files)",
    )
    add("--image-size", type=int, metavar="N", help="crop and resize the images of folders to N x N, as ADM does")
    add(
        "--model",
        metavar="NAME",
        help="official name, for the paper's figures (default: as the samples state)",
    )
    add_output(parser, "report.md and report.json")


def add_inception(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--inception",
        type=Path,
        metavar="F.pth",
        help="weights of FID's Inception network, as pytorch-fid publishes them (pt_inception-2015-12-05-6726825d.pth)",
    )


def add_output(parser: argparse.ArgumentParser, files: str) -> None:
    add = parser.add_argument
    add("--batch-size", type=int, metavar="N", help="images at a time (default: 8 on a CPU, 32 on a GPU)")
    add("--out", type=Path, metavar="DIR", help=f"folder for {files} (default: the report is only logged)")


def run(args: argparse.Namespace) -> None:
    """Measures, logs the report and writes it.

    Raises:
        ValueError: an argument or a file is wrong.
    """
    if args.reference and not args.inception:
        raise ValueError("--reference needs --inception, the weights of FID's network")
    if not args.inception and not args.clip:
        raise ValueError("nothing to measure: give --inception, --clip or both")
    from llamagen_server.engine import cpu
    from llamagen_server.evaluation.paper import find_paper_model
    from llamagen_server.evaluation.report import make_report
    from llamagen_server.pipeline.build import stage_device

    if args.model and not find_paper_model(args.model):
        raise ValueError(f"--model {args.model}: the paper has no FID of it; `llamagen models` lists those that it has")
    device = stage_device()
    if device.type == "cpu":
        cpu.tune_process(cpu.SMALL_NETWORK)
    evaluation = _prepare(args, device)
    figures = evaluation.run()
    write_report(make_report(evaluation, figures, args.model, args.inception, args.clip), "Samples", args.out)


def _prepare(args: argparse.Namespace, device: torch.device) -> Evaluation:
    """Opens everything, so that a wrong file is found before hours of work."""
    from llamagen_server.evaluation.clip_score import ClipScorer
    from llamagen_server.evaluation.evaluate import Evaluation, read_captions
    from llamagen_server.evaluation.features import FeatureExtractor
    from llamagen_server.evaluation.image_sets import open_images
    from llamagen_server.evaluation.inception import load_inception
    from llamagen_server.evaluation.reference import open_reference

    batch_size = check_output(args, device)
    samples = open_images(args.samples, args.image_size)
    return Evaluation(
        samples=samples,
        reference=open_reference(args.reference, args.image_size) if args.reference else None,
        extractor=FeatureExtractor(load_inception(args.inception), device) if args.inception else None,
        captions=read_captions(samples, args.captions) if args.clip else [],
        clip=ClipScorer(args.clip, device) if args.clip else None,
        batch_size=batch_size,
    )


def check_output(args: argparse.Namespace, device: torch.device) -> int:
    """Makes the folder of ``--out`` and returns the batch size.

    Raises:
        ValueError: ``--batch-size`` or another size is not positive.
    """
    for name in ("batch_size", "image_size", "image_size_eval", "sheet_images"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}, must be at least 1")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    return args.batch_size or BATCH[device.type]


def write_report(report: dict[str, Any], title: str, out: Path | None) -> None:
    """Logs a report, and writes it to the folder ``out``."""
    from llamagen_server.evaluation.report import markdown

    text = markdown(report, title)
    logger.info("%s", text)
    if out:
        (out / "report.md").write_text(text)
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")

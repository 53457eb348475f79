"""Samples a demo with many settings of guidance, and plots how right its images are against how much they vary.

    python -m demo.studies.guidance                                                    # the text demo
    python -m demo.studies.guidance --model server/llamagen_server/demo_models/class   # the class demo
    python -m demo.studies.guidance --quick --out DIR                                  # a small one

Each setting has the same conditions and seeds, and varies cfg_scale with one or two other parameters. Finished
settings of the same weights are kept in ``guidance-text.jsonl`` or ``guidance-class.jsonl``. Captions are held out, and
others than those of `demo.evaluate`, because the defaults are chosen by this study.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from demo.judges import CaptionJudge, ClassJudge, Judge, variety
from demo.shapes.captions import held_out_captions
from demo.studies.files import read_results, save_plot, weights_sha256
from demo.training import LOG_FORMAT
from llamagen_server import ImageEngine, ImageRequest
from llamagen_server.image_files.figure import figure_class
from llamagen_server.pipeline.build import open_model

logger = logging.getLogger(__name__)

OUT = Path("docs/studies")
SCALES = (1.0, 1.5, 2.0, 4.0, 7.5)
BASE: dict[str, Any] = {
    "cfg_interval": -1,
    "cfg_schedule": "constant",
    "cfg_min_p": 0.0,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
}
"""Plain guidance, which every family changes."""
FAMILIES: dict[str, list[dict[str, Any]]] = {
    "plain": [{}],
    "cfg_min_p": [{"cfg_min_p": value} for value in (0.02, 0.05, 0.1, 0.2)],
    "temperature": [{"temperature": value} for value in (0.3, 0.6)],
    "top_k": [{"top_k": value} for value in (10, 100)],
    "cfg_interval": [{"cfg_interval": value} for value in (16, 32)],
    "cfg_schedule": [{"cfg_schedule": value} for value in ("linear", "cosine")],
    "cfg_min_p 0.04 and cfg_schedule": [{"cfg_min_p": 0.04, "cfg_schedule": value} for value in ("linear", "cosine")],
}
CAPTIONS, PER_CAPTION, PER_CLASS = 50, 4, 3
CAPTION_SEED = 20261129
MIN_RIGHT = 0.1
"""Share of right images below which their variety means nothing: there are hardly two of a condition."""


def settings(quick: bool) -> Iterator[dict[str, Any]]:
    """The settings of all families, by scale; unguided images only once per change."""
    scales = (1.0, 4.0) if quick else SCALES
    families = dict(list(FAMILIES.items())[:2]) if quick else FAMILIES
    for family, changes in families.items():
        for change, scale in product(changes, scales):
            if scale > 1 or not change.keys() & {"cfg_interval", "cfg_schedule"}:
                yield {"family": family, "cfg_scale": scale, **BASE, **change}


def parameters(setting: dict[str, Any]) -> dict[str, Any]:
    """The sampling parameters of a setting or of its result."""
    return {name: setting[name] for name in ("cfg_scale", *BASE)}


def curve_of(results: Sequence[dict[str, Any]], family: str, change: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of one change of a family, by scale."""
    curve = [r for r in results if r["family"] == family and all(r[name] == value for name, value in change.items())]
    return sorted(curve, key=itemgetter("cfg_scale"))


def sample(engine: ImageEngine, judge: Judge, per_condition: int, setting: dict[str, Any]) -> np.ndarray:
    """Generates images, uint8 [conditions, per_condition, S, S, 3]. Image i has the seed i."""
    fields = {name: value for name, value in setting.items() if name != "family"}
    conditions = [condition for condition in judge.conditions for _ in range(per_condition)]
    requests = [ImageRequest(**condition, seed=i, **fields) for i, condition in enumerate(conditions)]
    images = np.stack([result.images[0].pixels for result in engine.generate_batch(requests)])
    return images.reshape(len(judge.conditions), per_condition, *images.shape[1:])


def measure(judge: Judge, images: np.ndarray) -> dict[str, float]:
    """Scores and variety of images [conditions, n, S, S, 3]; "error" is the standard error of the share "all"."""
    right, scores = judge.judge(images)
    error = right.mean(axis=1).std(ddof=1) / len(right) ** 0.5  # images of one condition are not independent
    values = {**scores, "error": float(error), **variety(images, right)}
    return {name: round(value, 4) for name, value in values.items()}


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Plots a curve over the scales for each change of each family: how right against how varied (a Pareto plot).

    Results below `MIN_RIGHT` are left out.

    Raises:
        ValueError: matplotlib is missing.
    """
    results = [r for r in results if r["all"] >= MIN_RIGHT]
    families = [family for family in FAMILIES if family != "plain"]
    columns = -(-len(families) // 2)
    figure = figure_class()(figsize=(5 * columns, 8), layout="constrained")
    rows = figure.subplots(2, columns, sharex=True, sharey=True)
    plain, front = curve_of(results, "plain", {}), pareto_front(results)
    for axes, family in zip(rows.flat, families, strict=False):
        axes.plot(*zip(*front, strict=True), color="black", linestyle=":", label="best of all settings")
        axes.plot([r["variety"] for r in plain], [r["all"] for r in plain], color="grey", alpha=0.5, label="plain")
        for change in FAMILIES[family]:
            curve = curve_of(results, family, change)
            label = ", ".join(f"{name} {value}" for name, value in change.items())
            axes.plot([r["variety"] for r in curve], [r["all"] for r in curve], marker="o", label=label)
            for r in curve:
                axes.annotate(f"{r['cfg_scale']:g}", (r["variety"], r["all"]), fontsize=7)
        axes.set(title=family, ylim=(0, 1.02))
        axes.legend(fontsize=8)
    for axes in rows[:, 0]:
        axes.set_ylabel("images that are right")
    for axes in rows[-1]:
        axes.set_xlabel("variety: share of pixels that differ")
    save_plot(figure, path)


def pareto_front(results: Sequence[dict[str, Any]]) -> list[tuple[float, float]]:
    """Variety and rightness of the settings that no other surpasses in both, the most varied first."""
    front: list[tuple[float, float]] = []
    for point in sorted(((r["variety"], r["all"]) for r in results), reverse=True):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown table: how right the images are, by change and scale, and how much they vary in brackets."""
    scales = sorted({r["cfg_scale"] for r in results})
    lines = ["| | " + " | ".join(f"{scale:g}" for scale in scales) + " |", "|" + "---|" * (len(scales) + 1)]
    for family in dict.fromkeys(r["family"] for r in results):
        for change in FAMILIES[family]:
            cells = {r["cfg_scale"]: _cell(r) for r in curve_of(results, family, change)}
            name = " ".join(f"`{name}` {value}" for name, value in change.items()) or "plain guidance"
            lines.append(f"| {name} | " + " | ".join(cells.get(scale, "") for scale in scales) + " |")
    return "\n".join(lines)


def _cell(result: dict[str, Any]) -> str:
    variety = f" ({result['variety']:.2f})" if result["all"] >= MIN_RIGHT else ""
    return f"{result['all']:.3f}{variety}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model directory of one of the demos (default: the text demo)")
    parser.add_argument("--out", type=Path, default=OUT, help="directory of results and plots")
    parser.add_argument("--quick", action="store_true", help="few conditions and settings, to try the script")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    args.out.mkdir(parents=True, exist_ok=True)
    model = open_model(args.model)
    is_text = model.config.condition == "text"
    judge = CaptionJudge(held_out_captions(4 if args.quick else CAPTIONS, CAPTION_SEED)) if is_text else ClassJudge()
    per_condition = 2 if args.quick else PER_CAPTION if is_text else PER_CLASS
    same = {"weights": weights_sha256(model), "images": len(judge.conditions) * per_condition}
    path = args.out / f"guidance-{'text' if is_text else 'class'}.jsonl"
    results = [result for result in read_results(path) if same.items() <= result.items()]
    done = [parameters(result) for result in results]
    if missing := [setting for setting in settings(args.quick) if parameters(setting) not in done]:
        with ImageEngine(args.model, max_num_seqs=64) as engine, path.open("a") as file:
            for setting in missing:
                results.append({**setting, **measure(judge, sample(engine, judge, per_condition, setting)), **same})
                file.write(json.dumps(results[-1]) + "\n")
                file.flush()
                logger.info("%s", results[-1])
    plot(results, path.with_suffix(".svg"))
    print(table(results))


if __name__ == "__main__":
    main()

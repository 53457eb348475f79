"""Flags for the sampling parameters of images, which ``generate`` and ``sample`` share."""

from __future__ import annotations

import argparse
from typing import Any

NAMES = ("cfg_scale", "guidance_scale", "cfg_interval", "cfg_schedule", "cfg_min_p", "temperature", "top_k", "top_p")


def add_sampling_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    add = parser.add_argument
    add("--cfg-scale", type=float, help="guidance scale (default: the model's)")
    add("--guidance-scale", type=float, help="an alias of --cfg-scale; give only one")
    add(
        "--cfg-interval",
        type=int,
        metavar="K",
        help="guide image tokens 0 to K + 1; -1: all (default: the model's)",
    )
    add("--cfg-schedule", help="constant, linear or cosine (default: the model's)")
    add(
        "--cfg-min-p",
        type=float,
        metavar="P",
        help="exclude codes whose conditional probability is below P times that of the most likely code (default: the "
        "model's)",
    )
    add("--temperature", type=float, help="sampling temperature; 0 is greedy (default: the model's)")
    add(
        "--top-k",
        type=int,
        help="number of most likely codes to sample from; 0 keeps every code (default: the model's)",
    )
    add(
        "--top-p",
        type=float,
        help="probability mass of the codes to sample from; 1 keeps every code (default: the model's)",
    )


def sampling_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the flags as fields of `core.request.ImageRequest`; None where the model's default counts."""
    return {name: getattr(args, name) for name in NAMES}

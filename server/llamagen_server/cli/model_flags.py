"""Flags that ``serve`` and ``run-batch`` share: the model, its decoding, and vLLM's engine flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from llamagen_server.core.options import DEMOS, VQ_DTYPES, RequestPolicy, SizePolicy

if TYPE_CHECKING:
    from llamagen_server.model_dir import ModelDir

EPILOG = """vLLM's engine flags are accepted under their own names, such as --max-num-seqs, --dtype, --enforce-eager,
--tensor-parallel-size, --gpu-memory-utilization or --served-model-name:
  --help=all            shows all of them
  --help=CacheConfig    shows one group
  --help=kv-cache       searches

"""


def add_model_flags(parser: argparse.ArgumentParser, group: argparse._ArgumentGroup) -> None:
    """Adds the positional MODEL to the parser and our flags of the model to the group; imports nothing heavy."""
    parser.add_argument(
        "model_dir",
        metavar="MODEL",
        nargs="?",
        help="model directory, or a name that `llamagen models` lists (default: the demo model)",
    )
    add_demo(group)
    group.add_argument(
        "--cfg-branches",
        type=int,
        choices=(1, 2),
        default=2,
        help="1: no image is guided, at half the work per token; cfg_scale must then be 1 (default: %(default)s)",
    )
    group.add_argument(
        "--vq-dtype",
        choices=VQ_DTYPES,
        default="auto",
        help="dtype of decoding; auto: that of vq/config.json (float32 for official image tokenizers) on a CPU that "
        "computes it in hardware, else float32 (default: %(default)s)",
    )


def add_demo(group: argparse._ActionsContainer) -> None:
    """Adds ``--demo``, which stands in for MODEL."""
    group.add_argument(
        "--demo",
        choices=DEMOS,
        help=f"embedded demo to use in place of MODEL: images from captions or of a class (default: {DEMOS[0]})",
    )


def chosen_model(model: str | None, demo: str | None) -> str | Path | None:
    """Returns the model that the command line asks for; None for the default one.

    Raises:
        ValueError: both MODEL and ``--demo`` are given.
    """
    from llamagen_server.pipeline.build import DEMO_MODELS

    if demo is None:
        return model
    if model:
        raise ValueError(f"give either MODEL or --demo, got {model} and --demo {demo}")
    return DEMO_MODELS[demo]


def open_chosen(args: argparse.Namespace) -> ModelDir:
    """Opens the model of a command with `add_model_flags` and vLLM's flags.

    Raises:
        ValueError: both MODEL and ``--demo`` are given, or the model cannot be served.
    """
    from llamagen_server.pipeline.build import open_model

    return open_model(chosen_model(args.model_dir or args.model, args.demo), args.cfg_branches)


def add_size_policy(group: argparse._ArgumentGroup) -> None:
    """Adds ``--size-policy``, for requests that were written for models of other sizes."""
    group.add_argument(
        "--size-policy",
        choices=get_args(SizePolicy),
        default=RequestPolicy.size,
        help="images of another size than the model's; resize: generate at the model's size, then scale and crop "
        "(default: %(default)s, which refuses them)",
    )


def add_vllm_flags(
    parser: argparse.ArgumentParser, add_own_arguments: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Adds a command's own flags and vLLM's to vLLM's parser."""
    from llamagen_server.engine import arguments

    formatter_class = parser.formatter_class
    add_own_arguments(parser)
    parser.formatter_class = formatter_class  # vLLM's own, for --help=all
    arguments.add_arguments(parser)


def served_names(args: argparse.Namespace, model: ModelDir) -> list[str]:
    """Returns the model's public names: those of ``--served-model-name``, else the directory's name."""
    from llamagen_server.pipeline.build import public_name

    return list(args.served_model_name or [public_name(model)])

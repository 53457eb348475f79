"""``llamagen tokenizer``: image tokenizers by themselves."""

from __future__ import annotations

import argparse

from llamagen_server.cli import tokenizer_eval

EXAMPLE = """example:
  llamagen tokenizer eval models/c2i-b imagenet/val --out tokenizer-report"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    text = "measure codebook usage and reconstructions on images"
    command = actions.add_parser(
        "eval",
        help=text,
        description=f"{text.capitalize()}.",
        epilog=tokenizer_eval.EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(action=tokenizer_eval.run)
    tokenizer_eval.add_arguments(command)


def run(args: argparse.Namespace) -> None:
    """Runs the chosen action.

    Raises:
        ValueError: an argument or a file is wrong.
    """
    args.action(args)

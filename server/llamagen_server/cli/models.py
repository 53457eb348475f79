"""``llamagen models``: lists the official checkpoints that have a name."""

from __future__ import annotations

import argparse
import json
import sys

NOTES = """Weights: language model and text encoder in bfloat16, image tokenizer in float32.
KV cache: of a guided image, in bfloat16.
FID and rFID on ImageNet at 256 px, as the authors state them; empty cells are not known."""

EXAMPLE = """example:
  llamagen models --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with the files on the Hugging Face hub and their checksums"
    )


def run(args: argparse.Namespace) -> None:
    """Prints the tables, or JSON, on stdout."""
    # Imported here: it takes seconds.
    from llamagen_server.hub.table import (
        MODEL_HEADINGS,
        TOKENIZER_HEADINGS,
        as_objects,
        as_text,
        model_rows,
        tokenizer_rows,
    )

    if args.json:
        text = json.dumps(as_objects(), indent=2)
    else:
        tables = [as_text(MODEL_HEADINGS, model_rows()), as_text(TOKENIZER_HEADINGS, tokenizer_rows()), NOTES]
        text = "\n\n".join(tables)
    sys.stdout.write(text + "\n")

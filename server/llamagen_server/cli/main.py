"""The command ``llamagen``."""

from __future__ import annotations

import argparse
import importlib
import sys

from llamagen_server import __version__
from llamagen_server.core import logs
from llamagen_server.core.errors import EngineError
from llamagen_server.engine.environment import set_process_defaults

COMMANDS = {
    "serve": "serve a model over HTTP",
    "generate": "generate images from the command line",
    "run-batch": "generate the images of many requests in a file",
    "convert": "make a model directory from checkpoints",
    "models": "list the official checkpoints that have a name",
    "sample": "generate a set of images for evaluation, by the thousand",
    "eval": "measure the quality of samples: FID, Inception Score, precision and recall, CLIP score",
    "tokenizer": "measure image tokenizers",
    "bench": "measure speed",
}
MODULES = {
    "serve": "llamagen_server.cli.serve",
    "generate": "llamagen_server.cli.generate",
    "run-batch": "llamagen_server.cli.run_batch",
    "convert": "llamagen_server.cli.convert",
    "models": "llamagen_server.cli.models",
    "sample": "llamagen_server.cli.sample",
    "eval": "llamagen_server.cli.eval",
    "tokenizer": "llamagen_server.cli.tokenizer",
    "bench": "llamagen_server.cli.bench",
}
"""Modules with ``add_arguments(parser)`` and ``run(args)``, imported when their command is called."""

USAGE = {
    "serve": "llamagen serve [MODEL] [options]",
    "run-batch": "llamagen run-batch [MODEL] -i IN.jsonl -o OUT.jsonl [options]",
    "sample": "llamagen sample [MODEL] --out OUT [options]",
}
"""Commands that take vLLM's two hundred flags too, with usage lines in place of argparse's own."""

EXAMPLE = """example:
  llamagen serve
  llamagen generate "a large red circle on a white background" -o image.png"""


def main(argv: list[str] | None = None) -> None:
    """Runs one command. A wrong argument or file ends it with one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    set_process_defaults()
    logs.set_up()
    command = argv[0] if argv else ""
    try:
        args = _parse_vllm_flags(argv) if _takes_vllm_flags(argv) else _parser(argv).parse_args(argv)
        importlib.import_module(MODULES[command]).run(args)
    except (ValueError, OSError) as error:
        _fail(2, command, error)
    except EngineError as error:
        _fail(1, command, error)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(code: int, command: str, error: Exception) -> None:
    sys.stderr.write(f"llamagen {command}: {error}\n")
    sys.exit(code)


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    """Returns the parser of all commands, with the arguments of the one that is called."""
    parser = argparse.ArgumentParser(
        prog="llamagen",
        description="Serves LlamaGen image models on vLLM.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", usage=USAGE.get(name)
        )
        if name in argv[:1]:
            module = importlib.import_module(MODULES[name])
            getattr(module, "add_own_arguments", module.add_arguments)(command)
    return parser


def _takes_vllm_flags(argv: list[str]) -> bool:
    """True for the commands that do, except with ``--help``, which shows our own flags."""
    return bool(argv) and argv[0] in USAGE and {"-h", "--help"}.isdisjoint(argv)


def _parse_vllm_flags(argv: list[str]) -> argparse.Namespace:
    """Parses a command with vLLM's own parser, which takes seconds to import.

    It has JSON and dotted values (``--hf-overrides.rope_base 1e4``), ``--config FILE`` and ``--help=all``.
    """
    from vllm_llamagen.vllm_compat import FlexibleArgumentParser

    command, *flags = argv
    parser = FlexibleArgumentParser(prog=f"llamagen {command}", usage=USAGE[command])
    importlib.import_module(MODULES[command]).add_arguments(parser)
    args: argparse.Namespace = parser.parse_args(flags)
    return args

"""The command ``llamagen``."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys

from llamagen_server import __version__
from llamagen_server.core.errors import EngineError

COMMANDS = {
    "serve": "serve a model over HTTP",
    "generate": "make pictures from the command line",
    "convert": "make a model directory from the official checkpoint files",
    "bench": "measure speed",
}
MODULES = {
    "serve": "llamagen_server.serving.http",
    "generate": "llamagen_server.cli.generate",
    "convert": "llamagen_server.convert",
    "bench": "llamagen_server.bench",
}
"""Each is a module with ``add_arguments(parser)`` and ``run(args)``, imported when it is called."""


def main(argv: list[str] | None = None) -> None:
    """Runs one command. A wrong argument or file ends it with one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    _set_environment()
    logging.basicConfig(format="%(levelname)s %(asctime)s %(message)s", datefmt="%m-%d %H:%M:%S")
    logging.getLogger("llamagen_server").setLevel(logging.INFO)
    command = argv[0] if argv else ""
    try:
        parser = _parser(argv)
        args = parser.parse_args(argv)
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
    """The parser of all commands, with the arguments of the one that is called."""
    parser = argparse.ArgumentParser(prog="llamagen", description="Serves LlamaGen image models on vLLM.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_parser_class(argv))
    for name, text in COMMANDS.items():
        usage = "llamagen serve [MODEL] [options]" if name == "serve" else None  # vLLM has two hundred
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".", usage=usage)
        if name in argv[:1]:
            importlib.import_module(MODULES[name]).add_arguments(command)
    return parser


def _parser_class(argv: list[str]) -> type[argparse.ArgumentParser]:
    """vLLM's own parser for its flags (it takes JSON and dotted arguments); importing it takes seconds."""
    if argv[:1] != ["serve"]:
        return argparse.ArgumentParser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser_class: type[argparse.ArgumentParser] = FlexibleArgumentParser
    return parser_class


def _set_environment() -> None:
    """Defaults that are environment variables; they count before torch and vLLM are imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TORCH_LOGS", "-torch._library.triton")  # "Triton not available", on every CPU
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # of torch, about torch
    # The engine is a new process: one that is forked would not load our plugin anew, nor read its environment.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    # Engine and decoder share a CPU's cores: a thread that waits for its fellows must not keep them from running.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # The V2 model runner has another logits-processor interface; it stays off until it is verified on a GPU.
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")

"""``llamagen bench``: how fast it is."""

from __future__ import annotations

import argparse

from llamagen_server.bench import engine
from llamagen_server.bench import http as serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(metavar="WHAT", required=True)
    for name, module, text in (
        ("engine", engine, "decoding of codes, without text encoder and VQ decoder"),
        ("serve", serve, "load on a server that runs, over HTTP"),
    ):
        command = what.add_parser(name, help=text)
        command.set_defaults(bench=module.run)
        module.add_arguments(command)


def run(args: argparse.Namespace) -> None:
    args.bench(args)

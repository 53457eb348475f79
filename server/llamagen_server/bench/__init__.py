"""``llamagen bench``: how fast it is."""

from __future__ import annotations

import argparse

from llamagen_server.bench import engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_subparsers(metavar="WHAT", required=True)
    engine.add_arguments(what.add_parser("engine", help="decoding of codes, without text encoder and VQ decoder"))


def run(args: argparse.Namespace) -> None:
    engine.run(args)

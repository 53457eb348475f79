"""``llamagen bench``: speed of the engine alone and of a running server, and planning with it."""

from __future__ import annotations

import argparse

from llamagen_server.cli import bench_capacity, bench_engine, bench_http, bench_scenario

BENCHMARKS = {
    "engine": (bench_engine, "time the engine alone, without text encoder and image tokenizer"),
    "serve": (bench_http, "run a load test on a running server"),
    "scenario": (bench_scenario, "run load tests with phases, described in files, on a running server"),
    "capacity": (bench_capacity, "plan how many devices a target rate needs"),
}


EXAMPLE = """example:
  llamagen bench engine --size B --batch 1 8 --baseline eager
  llamagen bench serve --max-concurrency 1 8 32
  llamagen bench scenario deploy/loadtest/steady.yaml --out reports"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    benchmarks = parser.add_subparsers(metavar="BENCHMARK", required=True)
    for name, (module, text) in BENCHMARKS.items():
        command = benchmarks.add_parser(
            name,
            help=text,
            description=text.capitalize() + ".",
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(benchmark=module.run)
        module.add_arguments(command)


def run(args: argparse.Namespace) -> None:
    """Runs the chosen benchmark.

    Raises:
        ValueError: an argument is wrong, or the server does not answer.
    """
    args.benchmark(args)

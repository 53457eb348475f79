"""``llamagen run-batch``: many requests from a file. Flags and files are those of ``vllm run-batch``."""

from __future__ import annotations

import argparse
import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llamagen_server.cli.model_flags import (
    EPILOG,
    add_model_flags,
    add_size_policy,
    add_vllm_flags,
    open_chosen,
    served_names,
)
from llamagen_server.core.options import NO_LIMITS, RequestPolicy

if TYPE_CHECKING:
    from llamagen_server.pipeline.pipeline import Pipeline
    from llamagen_server.serving.batch import Batch
    from llamagen_server.serving.batch_files import ReplyFile

logger = logging.getLogger(__name__)

EXAMPLE = """example:
  llamagen run-batch models/t2i-xl -i prompts.jsonl -o images.jsonl"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds our flags and vLLM's."""
    add_vllm_flags(parser, add_own_arguments)


def add_own_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds our own flags, which ``--help`` shows; imports nothing heavy."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG + EXAMPLE
    group = parser.add_argument_group("llamagen-serve")
    group.add_argument(
        "-i",
        "--input-file",
        type=Path,
        required=True,
        metavar="IN.jsonl",
        help="requests in OpenAI's batch format, one per line",
    )
    group.add_argument(
        "-o",
        "--output-file",
        type=Path,
        required=True,
        metavar="OUT.jsonl",
        help="replies, one per line in the order in which they finish; an unfinished file is continued",
    )
    add_size_policy(group)
    add_model_flags(parser, group)


def run(args: argparse.Namespace) -> None:
    """Sends all requests that have no reply yet.

    Raises:
        ValueError: the model, a flag or a file is wrong.
        EngineError: the engine did not start, ended, or failed on requests.
    """
    from llamagen_server.cli.loading import interruptible, load_pipeline
    from llamagen_server.serving.batch import Batch
    from llamagen_server.serving.batch_files import check_requests, open_replies

    custom_ids = check_requests(args.input_file)
    model = open_chosen(args)
    with open_replies(args.output_file, custom_ids) as replies:
        finished = len(replies.statuses)
        logger.info("%s: %d of %d lines have a reply", args.output_file, finished, len(custom_ids))
        if finished == len(custom_ids):
            return
        logging.getLogger("llamagen_server.api.middleware.access_log").setLevel(logging.WARNING)
        load = partial(load_pipeline, model, args, limits=NO_LIMITS, vq_dtype=args.vq_dtype)
        pipeline = interruptible(partial(load, own_process_group=True))
        batch = Batch(
            served_names(args, model), pipeline, replies, len(custom_ids), RequestPolicy(size=args.size_policy)
        )
        asyncio.run(_run(batch, pipeline, args.input_file, replies))


async def _run(batch: Batch, pipeline: Pipeline, input_file: Path, replies: ReplyFile) -> None:
    from llamagen_server.serving.batch_files import read_requests

    finished = frozenset(replies.statuses)
    requests = (request for _, request in read_requests(input_file) if request.custom_id not in finished)
    try:
        await batch.run(requests)
    finally:
        pipeline.shutdown()

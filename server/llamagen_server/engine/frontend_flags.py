"""Flags of vLLM's own server that it counts among its engine flags. Those that have no effect here are refused.

Honoured are ``--served-model-name``, ``--shutdown-timeout``, ``--disable-log-stats``, ``--enable-log-requests``,
``--log-level`` and ``--aggregate-engine-logging``; vLLM's own lines in the log need ``--log-level INFO``,
those of an engine on a GPU do not.
"""

from __future__ import annotations

import argparse
from dataclasses import MISSING, fields

_DEFAULTS = "the sampling defaults are those of generation_config.json in the model directory"
_QUEUE = "--max-in-flight limits the requests"
_NO_TEXT = "there is no text output and no prompt with media"
_REPLICAS = "run one server for each replica behind a proxy"

REFUSED = {
    "generation_config": _DEFAULTS,
    "override_generation_config": _DEFAULTS,
    "max_num_queued_reqs": _QUEUE,
    "max_num_queued_tokens": _QUEUE,
    "reasoning_parser": _NO_TEXT,
    "reasoning_parser_plugin": _NO_TEXT,
    "io_processor_plugin": _NO_TEXT,
    "allowed_local_media_path": _NO_TEXT,
    "allowed_media_domains": _NO_TEXT,
    "data_parallel_external_lb": _REPLICAS,
    "data_parallel_hybrid_lb": _REPLICAS,
    "data_parallel_multi_port_external_lb": _REPLICAS,
    "data_parallel_rank": _REPLICAS,
}
"""Name of the flag in Python -> what there is in its place."""


def check_frontend_flags(flags: argparse.Namespace) -> None:
    """Compares the flags of `REFUSED` with vLLM's defaults.

    Raises:
        ValueError: one was given.
    """
    from vllm_llamagen.vllm_compat import AsyncEngineArgs

    for field in fields(AsyncEngineArgs):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        unset = (default, "")  # vLLM's parser has "" where its class has None
        if field.name in REFUSED and getattr(flags, field.name, default) not in unset:
            flag = field.name.replace("_", "-")
            message = f"--{flag} is a flag of vLLM's own server and has no effect here: {REFUSED[field.name]}"
            raise ValueError(message)

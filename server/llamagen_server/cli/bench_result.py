"""The result file of a benchmark (``--save-result``)."""

from __future__ import annotations

import argparse
import json
from typing import Any

NOT_SETTINGS = ("command", "benchmark", "api_key", "save_result")


def save_result(args: argparse.Namespace, result: dict[str, Any], **settings: Any) -> None:
    """Writes the flags and the result as JSON to ``args.save_result``, if that is set.

    Args:
        settings: values that replace those of the flags with the same names.
    """
    if args.save_result:
        flags = {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}
        content = {"settings": flags | settings, **result}
        args.save_result.write_text(json.dumps(content, indent=2, default=str) + "\n")

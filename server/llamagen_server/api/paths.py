"""Paths of requests behind a proxy that serves this server below a prefix, ``--root-path`` or X-Forwarded-Prefix."""

from __future__ import annotations

import re

from starlette.types import Scope

ROUTES = ("v1", "images", "docs", "playground")
"""First parts of routes with several. A prefix that is one of them would make their paths ambiguous."""
PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def route_path(scope: Scope) -> str:
    """Returns the path by which a request's route is found.

    Some proxies remove the prefix from the path, others do not; Starlette's routes match both.
    """
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] or "/" if is_below(path, prefix) else path


def is_below(path: str, prefix: str) -> bool:
    """Whether a path begins with a prefix. An empty prefix counts as none."""
    return prefix != "" and f"{path}/".startswith(f"{prefix}/")


def check_root_path(path: str) -> str:
    """Returns a prefix without a slash at its end.

    Raises:
        ValueError: it is not a path.
    """
    prefix = path.rstrip("/")
    if prefix and not PREFIX.fullmatch(prefix):
        raise ValueError(f"--root-path is {path!r}, must be a path such as /images-api")
    if prefix.partition("/")[2].partition("/")[0] in ROUTES:
        taken = ", ".join(f"/{name}" for name in ROUTES)
        raise ValueError(f"--root-path is {path!r}, must not begin as routes of this server do: {taken}")
    return prefix

"""Paths of requests behind a proxy that serves this server below a prefix, ``--root-path`` or X-Forwarded-Prefix."""

from __future__ import annotations

import re

from starlette.types import Scope

PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def route_path(scope: Scope) -> str:
    """Returns the path by which a request's route is found.

    Some proxies remove the prefix from the path, others do not; Starlette's routes match both.
    """
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def check_root_path(path: str) -> str:
    """Returns a prefix without a slash at its end.

    Raises:
        ValueError: it is not a path.
    """
    prefix = path.rstrip("/")
    if prefix and not PREFIX.fullmatch(prefix):
        raise ValueError(f"--root-path is {path!r}, must be a path such as /images-api")
    return prefix

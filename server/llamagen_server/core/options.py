"""Options of a pipeline that the command line shows, kept apart from heavy imports."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Literal

from llamagen_server.core.errors import InvalidRequestError

DEMOS = ("text", "class")
"""The embedded demo models, the default one first."""

VQ_DTYPES = ("auto", "float32", "bfloat16")
"""dtypes of decoding. ``auto``: the one in vq/config.json on a CPU that computes it in hardware, else float32."""


SizePolicy = Literal["strict", "resize"]
EditWithoutMask = Literal["refuse", "whole"]
ResponseFormat = Literal["b64_json", "url"]


@dataclass(frozen=True)
class RequestPolicy:
    """What the server does for clients that cannot send what it needs. The flags of ``llamagen serve`` set it."""

    size: SizePolicy = "strict"
    """Images of another size than the model's: refused, or generated at the model's size and resized."""
    edit_without_mask: EditWithoutMask = "refuse"
    """Edits without any mask: refused, or the whole image is generated anew from the prompt."""
    response_format: ResponseFormat = "b64_json"
    """Of replies of OpenAI's API to requests that name none; streams always have base64."""


@dataclass(frozen=True)
class RestartPolicy:
    """When an engine counts as hung, and how often a new one is started. The flags of ``llamagen serve`` set it.

    Raises:
        ValueError: a value is out of range; the message names the flag.
    """

    max_restarts: int = 20
    """Restarts within ``window``, at most; 0: the first end of the engine is the last. The default leaves room to find
    one request among 1024 that kills the engine (`llamagen_server.engine.suspects`)."""
    window: float = 900.0
    """Seconds."""
    hang_timeout: float = 10.0
    """Seconds without an answer after which the engine counts as hung, at least; longer for a slow model."""

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise ValueError(f"--max-restarts is {self.max_restarts}, must be at least 0")
        if not self.window > 0:
            raise ValueError(f"--restart-window is {self.window:g}, must be above 0 seconds")
        if not self.hang_timeout >= 1:
            raise ValueError(f"--hang-timeout is {self.hang_timeout:g}, must be at least 1 second")


@dataclass(frozen=True)
class Limits:
    """Limits of a server. Raises ValueError, with the name of the flag, if a value is wrong."""

    max_in_flight: int = 1024
    """Images that are accepted and not finished, at most."""
    default_timeout: float = 600.0
    """Seconds that a request may take if it names no timeout."""
    max_timeout: float = 3600.0
    """Largest timeout that a request may name, seconds."""

    def __post_init__(self) -> None:
        if self.max_in_flight < 1:
            raise ValueError(f"--max-in-flight is {self.max_in_flight}, must be at least 1")
        if not self.max_timeout > 0:
            raise ValueError(f"--max-timeout is {self.max_timeout:g}, must be more than 0 seconds")
        if not 0 < self.default_timeout <= self.max_timeout:
            allowed = f"more than 0 and at most {self.max_timeout:g} seconds, the value of --max-timeout"
            raise ValueError(f"--default-timeout is {self.default_timeout:g}, must be {allowed}")

    def timeout(self, asked: float | None = None) -> float:
        """Returns the seconds that a request may take.

        Args:
            asked: the request's own timeout.

        Raises:
            InvalidRequestError: it is above the server's maximum.
        """
        if asked is None:
            return self.default_timeout
        if asked > self.max_timeout:
            message = f"timeout is {asked:g}, must be at most {self.max_timeout:g} seconds, the server's maximum"
            raise InvalidRequestError(message, "timeout")
        return asked


NO_LIMITS = Limits(max_in_flight=sys.maxsize, default_timeout=math.inf, max_timeout=math.inf)
"""For callers that bound their own work: the Python API and the commands without a server."""

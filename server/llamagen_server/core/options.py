"""Options of a pipeline that the command line shows, kept apart from heavy imports."""

from __future__ import annotations

from dataclasses import dataclass

MAX_IN_FLIGHT = 1024
"""Default limit of the images that are accepted and not finished."""

VQ_DTYPES = ("auto", "float32", "bfloat16")
"""dtypes of decoding. ``auto``: the one in vq/config.json on a CPU that computes it in hardware, else float32."""


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

"""Options of a pipeline that the command line shows, kept apart from heavy imports."""

from __future__ import annotations

MAX_IN_FLIGHT = 1024
"""Default limit of the images that are accepted and not finished."""

VQ_DTYPES = ("auto", "float32", "bfloat16")
"""dtypes of decoding. ``auto``: the one in vq/config.json on a CPU that computes it in hardware, else float32."""

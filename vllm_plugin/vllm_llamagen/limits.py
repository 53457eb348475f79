"""What request parameters may be. This module imports nothing, so that command lines start quickly."""

MAX_SCALE = 1000
"""Largest ``cfg_scale``: far above any use, and far below what overflows float32 when it multiplies logits."""

MAX_TEMPERATURE = 2.0
"""Largest ``temperature``: vLLM's own limit."""

MAX_INT = 2**31 - 1
"""Largest count or position."""

SCHEDULES = ("constant", "linear", "cosine")
"""Values of ``cfg_schedule``."""

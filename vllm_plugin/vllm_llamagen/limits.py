"""Bounds of what a request may ask for, without any import: command lines need them at once."""

MAX_SCALE = 1000
"""Of cfg_scale: far above any use, and far below what overflows float32 when it multiplies logits."""

MAX_TEMPERATURE = 2.0
"""vLLM's own."""

MAX_INT = 2**31 - 1
"""Of counts and positions."""

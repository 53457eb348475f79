"""LlamaGen on vLLM: images from prompts or classes, with classifier-free guidance.

The names in ``__all__`` are the public Python API, imported when they are first used. Everything else may change.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llamagen_server.core.errors import DeadlineError, EngineError, InvalidRequestError
    from llamagen_server.core.request import ImageRequest
    from llamagen_server.core.results import GeneratedImage, GenerationResult, Timings
    from llamagen_server.pipeline.image_engine import ImageEngine
    from llamagen_server.rollout.group import Rollout, RolloutGroup, RolloutRequest

__version__ = "0.1.0"

__all__ = [
    "DeadlineError",
    "EngineError",
    "GeneratedImage",
    "GenerationResult",
    "ImageEngine",
    "ImageRequest",
    "InvalidRequestError",
    "Rollout",
    "RolloutGroup",
    "RolloutRequest",
    "Timings",
    "__version__",
]

_MODULES = {
    "DeadlineError": "core.errors",
    "EngineError": "core.errors",
    "GeneratedImage": "core.results",
    "GenerationResult": "core.results",
    "ImageEngine": "pipeline.image_engine",
    "ImageRequest": "core.request",
    "InvalidRequestError": "core.errors",
    "Rollout": "rollout.group",
    "RolloutGroup": "rollout.group",
    "RolloutRequest": "rollout.group",
    "Timings": "core.results",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on first use: the command line must not load torch to print its version."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__

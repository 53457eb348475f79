"""A model directory: what it holds, checked without reading its weights."""

from llamagen_server.model_dir.directory import ModelDir, ModelDirError
from llamagen_server.model_dir.generation_config import SamplingDefaults

__all__ = ["ModelDir", "ModelDirError", "SamplingDefaults"]

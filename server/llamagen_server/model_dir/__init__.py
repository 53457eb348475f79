"""A model directory: its contents, checked without reading the weights."""

from llamagen_server.model_dir.directory import ModelDir, ModelDirError

__all__ = ["ModelDir", "ModelDirError"]

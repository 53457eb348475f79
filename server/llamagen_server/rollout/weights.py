"""New weights of a running model, in folders that the engine's workers read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file
from torch import Tensor

from llamagen_server.model_dir.tensor_files import stored_shapes
from vllm_llamagen.config import LlamaGenConfig
from vllm_llamagen.weights import check_shapes

FILE = "model.safetensors"

Weights = Mapping[str, Tensor] | str | Path
"""All tensors of the language model by their official names, any floating dtype and device; or a file of them."""


class WeightFolder:
    """A folder with ``model.safetensors``. It is needed as long as an engine may have to read the weights again."""

    def __init__(self, weights: Weights, config: LlamaGenConfig) -> None:
        """Writes tensors into the folder, or links to a file, which must not change.

        Raises:
            ValueError: a tensor is missing, unexpected or of another shape, or the file is no safetensors file.
        """
        if isinstance(weights, Mapping):
            check_shapes({name: list(tensor.shape) for name, tensor in weights.items()}, config, "weights")
            if wrong := [name for name, tensor in weights.items() if not tensor.is_floating_point()]:
                raise ValueError(f"weights: {wrong[0]} is {weights[wrong[0]].dtype}, must be of a floating dtype")
        elif not Path(weights).is_file():
            raise ValueError(f"{weights} is not a file")
        self._folder = TemporaryDirectory(prefix="llamagen-weights-")
        self.path = Path(self._folder.name)
        if isinstance(weights, Mapping):
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, self.path / FILE)
            return
        (self.path / FILE).symlink_to(Path(weights).absolute())
        try:
            check_shapes(stored_shapes(self.path), config, weights)
        except ValueError as error:
            self.remove()
            raise ValueError(str(error).replace(str(self.path / FILE), str(weights))) from None

    def remove(self) -> None:
        self._folder.cleanup()

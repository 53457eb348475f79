"""An update of the weights in steps, as the clients of vLLM's weight transfer make it over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.rollout.weights import Weights

Apply = Callable[[Weights, int | None], Awaitable[int]]


MAX_SHOWN = 200
"""Characters of a wrong path in the error."""


def is_readable(path: str | Path) -> bool:
    """Whether there is a file that this process can read."""
    try:
        with Path(path).open("rb"):
            return Path(path).is_file()
    except (OSError, ValueError):  # ValueError: a null character
        return False


class WeightUpdate:
    """Start, name the file, finish. The weights change when the update is finished, or not at all."""

    def __init__(self, apply: Apply) -> None:
        """``apply`` replaces the weights and returns their version."""
        self._apply = apply
        self._is_started = False
        self._file: Path | None = None

    def start(self) -> None:
        """Begins an update; one that was begun and never finished is forgotten."""
        self._is_started, self._file = True, None

    def name_file(self, path: str) -> None:
        """Names the file of the weights, which must be readable here.

        Raises:
            InvalidRequestError: no update was begun, or there is no such file.
        """
        self._check_started()
        if not is_readable(path):
            shown = path if len(path) <= MAX_SHOWN else path[:MAX_SHOWN] + "..."
            raise InvalidRequestError(
                f"update_info.path is {shown!r}, must be a file that this server can read", "path"
            )
        self._file = Path(path)

    async def finish(self, version: int | None) -> int:
        """Replaces the weights. Returns their version.

        Raises:
            InvalidRequestError: no update was begun, no file was named, or its tensors do not fit the model.
            EngineError: the engine failed.
        """
        self._check_started()
        if self._file is None:
            raise InvalidRequestError("no weights were sent: call update_weights before finish_weight_update")
        file, self._file, self._is_started = self._file, None, False
        try:
            return await self._apply(file, version)
        except ValueError as error:
            raise InvalidRequestError(str(error), "path") from None
        except OSError as error:
            raise InvalidRequestError(f"{file}: {error.strerror or error}", "path") from None

    def _check_started(self) -> None:
        if not self._is_started:
            raise InvalidRequestError("no update was begun: call start_weight_update first")

"""The condition of a request: the prompt of a text model, the class of a class model, by id or by name."""

from __future__ import annotations

from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.core.request import ImageRequest
from llamagen_server.model_dir import ModelDir
from llamagen_server.model_dir.labels import find_class

MAX_SHOWN = 80
"""Characters of an unknown label in the error."""


def resolve_condition(request: ImageRequest, model: ModelDir) -> str | int:
    """Returns the prompt for a text model, the class id for a class model.

    Raises:
        InvalidRequestError: the condition is missing, of the other kind, or unknown to the model.
    """
    if model.config.condition == "class":
        return _class(request, model)
    if request.class_id is not None or request.class_label is not None:
        raise InvalidRequestError("this model generates from a prompt, not from a class: give prompt", "class_id")
    if request.prompt is None:
        raise InvalidRequestError("prompt is missing", "prompt")
    return request.prompt


def _class(request: ImageRequest, model: ModelDir) -> int:
    last = model.config.num_classes - 1
    if request.prompt and (request.class_id is not None or request.class_label is not None):
        raise InvalidRequestError("prompt and a class are both given: give one", "prompt")
    if request.prompt:
        return _class_of_label("prompt", request.prompt, model)
    if request.class_label is not None:
        if request.class_id is not None:
            raise InvalidRequestError("class_id and class_label are both given: give one", "class_label")
        return _class_of_label("class_label", request.class_label, model)
    if request.class_id is None:
        raise InvalidRequestError(f"class_id is missing, must be 0 to {last}", "class_id")
    if not 0 <= request.class_id <= last:
        raise InvalidRequestError(f"class_id is {request.class_id}, must be 0 to {last}", "class_id")
    return request.class_id


def _class_of_label(field: str, label: str, model: ModelDir) -> int:
    if model.labels is None and field == "prompt":
        raise InvalidRequestError("this model generates from a class, not from a prompt: give class_id", field)
    if model.labels is None:
        raise InvalidRequestError("this model has no labels: give class_id", field)
    try:
        return find_class(label, model.labels)
    except ValueError as error:
        shown = label if len(label) <= MAX_SHOWN else label[:MAX_SHOWN] + "..."
        raise InvalidRequestError(f"{field} {shown!r} {error}", field) from None

"""From the name of an official model to its model directory."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from filelock import FileLock, Timeout

from llamagen_server.hub import catalogue
from llamagen_server.hub.cache import models_folder
from llamagen_server.hub.catalogue import HubFile

logger = logging.getLogger(__name__)


def resolve_model(model: str | Path) -> Path:
    """Returns the model directory that MODEL stands for: a path that exists, else an official model by its name.

    Raises:
        ValueError: it looks like a name but is none, or the model cannot be downloaded or converted; one line.
    """
    if Path(model).exists():
        return Path(model)
    if name := _find(str(model), catalogue.MODELS):
        return _model_directory(name)
    if name := _find(str(model), catalogue.TOKENIZERS):
        raise ValueError(f"{name} is an image tokenizer, not a model; `llamagen models` lists both")
    if near := nearest(str(model)):
        raise ValueError(
            f"{model} is neither a directory nor the name of a model; nearest: {', '.join(near)} "
            "(`llamagen models` lists all)"
        )
    return Path(model)


def resolve_checkpoint(checkpoint: str | Path) -> str | Path:
    """Returns the local file of an official checkpoint that is given by name; anything else as it is.

    Raises:
        ValueError: the file cannot be downloaded.
    """
    text = str(checkpoint)
    files: dict[str, HubFile] = {name: named.file for name, named in catalogue.MODELS.items()}
    files |= {name: named.file for name, named in catalogue.TOKENIZERS.items()}
    name = None if Path(checkpoint).exists() else _find(text, files)
    return _checkpoint_file(files[name]) if name else checkpoint


def is_like_name(text: str) -> bool:
    """Whether a text is the name of an official model, or misspelt but no prompt."""
    return bool(_find(text, [*catalogue.MODELS, *catalogue.TOKENIZERS]) or nearest(text))


def nearest(text: str) -> list[str]:
    """Returns names of official models that are spelt like a text, the nearest first; none for paths and sentences."""
    plain = {_plain(name): name for name in catalogue.MODELS}
    if "/" in text or " " in text:
        return []
    return [plain[match] for match in get_close_matches(_plain(text), plain, n=3, cutoff=0.7)]


def _find(text: str, names: Iterable[str]) -> str | None:
    return {_plain(name): name for name in names}.get(_plain(text))


def _plain(name: str) -> str:
    return name.casefold().replace("_", "-")


def _model_directory(name: str) -> Path:
    """Returns the directory of a model; makes it on first use, once however many processes ask for it."""
    directory = models_folder() / name
    if directory.is_dir():
        return directory
    with _lock(directory):
        if not directory.is_dir():
            _make(name, directory)
    return directory


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Waits until no other process makes a directory.

    Raises:
        ValueError: the directory cannot be written.
    """
    lock = FileLock(directory.with_name(f".{directory.name}.lock"))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("%s: another process makes it, waiting", directory)
            lock.acquire()
    except OSError as error:
        raise ValueError(f"{directory}: cannot be written ({error.strerror or error})") from None
    try:
        yield
    finally:
        lock.release()


def _make(name: str, directory: Path) -> None:
    # Imported here: it takes seconds.
    from llamagen_server.convert.convert import convert
    from llamagen_server.convert.options import ConvertOptions

    for left in directory.parent.glob(f".{name}.*.tmp"):  # by a process that was killed
        shutil.rmtree(left)
    model = catalogue.MODELS[name]
    logger.info("%s is used for the first time: downloading and converting it", name)
    convert(
        ConvertOptions(
            gpt_ckpt=_checkpoint_file(model.file),
            vq_ckpt=_checkpoint_file(catalogue.TOKENIZERS[model.tokenizer].file),
            out=directory,
            text_encoder=model.text_encoder,
            image_size=model.image_size,
        )
    )


def _checkpoint_file(file: HubFile) -> Path:
    # Imported here: the hub's library takes a second, and models that were used before do not need it.
    from llamagen_server.hub.download import checkpoint_file

    return checkpoint_file(file)

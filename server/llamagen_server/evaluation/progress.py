"""A progress bar over batches of images, with rate and time left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tqdm import tqdm

from llamagen_server.core.results import Pixels


def progress(batches: Iterable[Pixels], total: int, title: str) -> Iterator[Pixels]:
    """Yields the batches. On a terminal, a bar counts their images."""
    with tqdm(total=total, desc=title, unit="image", disable=None, dynamic_ncols=True) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))

"""Mixed traffic on a server with the demo model, so that every panel of the dashboard has something to show.

python -m deploy.tests.traffic http://127.0.0.1:8000 --seconds 60 --clients 4
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from contextlib import suppress
from typing import Any

import httpx
from PIL import Image
from tests.helpers.image_files import png

PROMPT = "a large red circle on a white background"
TWO_IMAGES = {"url": "/generate", "json": {"prompt": PROMPT, "n": 2}}
STREAM = {"url": "/generate", "json": {"prompt": PROMPT, "stream": True, "partial_images": 2}}
EDIT = {
    "url": "/v1/images/edits",
    "files": {"image": png(Image.new("RGB", (64, 64), "white"))},
    "data": {"prompt": PROMPT, "keep_rows": "2"},
}
REFUSED = {"url": "/generate", "json": {"class_id": 1}}  # the demo model has no classes
ABANDONED = {
    "url": "/generate",
    "json": {"prompt": PROMPT, "n": 4},
    "timeout": httpx.Timeout(120, read=0.3),  # the client disconnects before a reply can be there
}
MIX: tuple[dict[str, Any], ...] = (TWO_IMAGES, STREAM, EDIT, TWO_IMAGES, REFUSED, ABANDONED)


async def send_traffic(url: str, seconds: float, clients: int) -> None:
    """Sends the requests of ``MIX`` in turn, ``clients`` at a time, each at least once."""
    end, requests = time.monotonic() + seconds, enumerate(itertools.cycle(MIX))

    async def one_client(client: httpx.AsyncClient) -> None:
        for number, request in requests:  # shared by the clients
            with suppress(httpx.ReadTimeout):
                reply = await client.post(**request)
                if reply.status_code == 429:
                    await asyncio.sleep(float(reply.headers["retry-after"]))
            if time.monotonic() > end and number >= len(MIX):
                return

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(one_client(client) for _ in range(clients)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    args = parser.parse_args()
    asyncio.run(send_traffic(args.url, args.seconds, args.clients))


if __name__ == "__main__":
    main()

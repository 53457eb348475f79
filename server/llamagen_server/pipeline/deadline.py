"""The deadline of a request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llamagen_server.core.errors import DeadlineError


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Cancels the work inside after ``seconds``; infinity never does.

    Raises:
        DeadlineError: the work was cancelled.
    """
    timeout = asyncio.timeout(seconds if math.isfinite(seconds) else None)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineError(f"the request was not finished within its timeout of {seconds:g} seconds") from None

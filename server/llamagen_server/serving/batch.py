"""Runs a batch: each request goes through the HTTP app inside this process, so the reply is the one by HTTP."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from llamagen_server.api.app import create_app
from llamagen_server.api.errors import ApiError, error_reply
from llamagen_server.core.errors import EngineError
from llamagen_server.core.options import RequestPolicy
from llamagen_server.pipeline.pipeline import Pipeline, together
from llamagen_server.serving.batch_files import BatchReply, BatchRequest, BatchResponse, ReplyFile

logger = logging.getLogger(__name__)

LOG_SECONDS = 30
"""Seconds between two lines in the log about the progress, where there is no terminal."""


class Batch:
    """Sends requests to the app and appends the replies to the output file, in the order in which they finish."""

    def __init__(
        self,
        names: Sequence[str],
        pipeline: Pipeline,
        replies: ReplyFile,
        total: int,
        policy: RequestPolicy = RequestPolicy(),
    ) -> None:
        """
        Args:
            names: the model's public names.
            total: number of requests in the input file.
            policy: what is done for requests that were written for other servers.
        """
        self._engine = pipeline.engine
        app = create_app(names[0], pipeline, aliases=names[1:], policy=policy)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://run-batch")
        self._replies = replies
        self._progress = _Progress(replies, total)
        self._num_failed = 0

    async def run(self, requests: Iterator[BatchRequest]) -> None:
        """Sends all requests, as many at a time as keep the engine full.

        Raises:
            EngineError: the engine ended, or failed on requests, which then have no reply.
            ValueError: a file cannot be read or written.
        """
        with logging_redirect_tqdm(), self._progress:
            # While finished images are decoded, others wait for their places in the engine.
            await together(self._work(requests) for _ in range(2 * self._engine.max_num_seqs))
        if self._num_failed:
            raise EngineError(f"{self._num_failed} requests failed and have no reply; the same command repeats them")

    async def _work(self, requests: Iterator[BatchRequest]) -> None:
        for request in requests:
            response = await self._send(request)
            if response.status_code < 500:
                self._replies.append(BatchReply(custom_id=request.custom_id, response=response))
                self._progress.add(response.body)
            else:
                await self._engine.check_health()
                logger.error("custom_id %r failed: %s", request.custom_id, response.body["error"]["message"])
                self._num_failed += 1

    async def _send(self, request: BatchRequest) -> BatchResponse:
        if refusal := _refusal(request.body):
            reply = bytes(error_reply(refusal).body)
            return BatchResponse(status_code=400, request_id=uuid.uuid4().hex, body=json.loads(reply))
        response = await self._http.post(
            request.url, content=json.dumps(request.body), headers={"content-type": "application/json"}
        )
        return BatchResponse(
            status_code=response.status_code, request_id=response.headers["x-request-id"], body=response.json()
        )


def _refusal(body: dict[str, Any]) -> ApiError | None:
    """Returns the error of a request whose reply would not be one JSON object with the images in it."""
    if str(body.get("stream")).strip().lower() == "true":
        return ApiError(400, "stream is true, must be false in a batch", "stream")
    if (value := body.get("response_format")) in ("url", "binary"):
        return ApiError(400, f"response_format is {value!r}, must be 'b64_json' in a batch", "response_format")
    return None


class _Progress:
    """A bar on a terminal, else a line in the log now and then; a summary at the end."""

    def __init__(self, replies: ReplyFile, total: int) -> None:
        self._statuses, self._total = replies.statuses, total
        self._bar = tqdm(total=total, initial=len(replies.statuses), unit="line", disable=None, dynamic_ncols=True)
        self._start = self._last_log = time.monotonic()
        self._images = 0

    def add(self, body: dict[str, Any]) -> None:
        """Counts a reply."""
        self._images += len(body.get("data", body.get("images", ())))
        self._bar.update()
        if self._bar.disable and time.monotonic() - self._last_log > LOG_SECONDS:
            self._last_log = time.monotonic()
            self._log()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._bar.close()
        self._log()
        if len(self._statuses) < self._total:
            logger.info("the same command goes on with the other lines")

    def _log(self) -> None:
        refused = sum(status >= 400 for status in self._statuses.values())
        seconds = time.monotonic() - self._start
        logger.info(
            "%d of %d lines have a reply: %d ok, %d refused; %d images in %.0f s (%.2f images/s)",
            len(self._statuses),
            self._total,
            len(self._statuses) - refused,
            refused,
            self._images,
            seconds,
            self._images / seconds,
        )

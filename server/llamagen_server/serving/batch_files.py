"""The files of a batch in OpenAI's format: requests in, replies out, one JSON object per line."""

from __future__ import annotations

import fcntl
import os
import uuid
from codecs import BOM_UTF8
from collections.abc import Iterator, Set
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from llamagen_server.core.errors import describe


class BatchRequest(BaseModel):
    """One line of the input file."""

    custom_id: Annotated[str, Field(min_length=1)]
    method: Literal["POST"]
    url: Literal["/v1/images/generations", "/generate"]
    body: dict[str, Any]


class BatchResponse(BaseModel):
    """What HTTP would have answered."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class BatchReply(BaseModel):
    """One line of the output file."""

    id: str = Field(default_factory=lambda: f"batch_req_{uuid.uuid4().hex}")
    custom_id: str
    response: BatchResponse
    error: None = None
    """OpenAI's place for failures without an HTTP status. There are none here."""


_REPLY_START = b'{"id":"batch_req_'


def read_requests(path: Path) -> Iterator[tuple[int, BatchRequest]]:
    """Yields line number and request of each line, without reading ahead; empty lines are skipped.

    Raises:
        ValueError: the file cannot be read, or a line is not a request.
    """
    _check_regular(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(BOM_UTF8)  # Windows programs write it
                if line.strip():
                    yield number, _parse_request(path, number, line)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def check_requests(path: Path) -> set[str]:
    """Checks every line of an input file. Returns the custom ids.

    Raises:
        ValueError: the file cannot be read, a line is not a request, two have the same custom id, or there is none.
    """
    lines: dict[str, int] = {}
    for number, request in read_requests(path):
        first = lines.setdefault(request.custom_id, number)
        if first != number:
            raise ValueError(f"{path}: custom_id {request.custom_id!r} is on line {first} and again on line {number}")
    if not lines:
        raise ValueError(f"{path} contains no requests")
    return set(lines)


class ReplyFile:
    """The output file, open for appending."""

    def __init__(self, path: Path, file: FileIO, statuses: dict[str, int]) -> None:
        self._path, self._file = path, file
        self.statuses = statuses
        """custom id -> HTTP status, of every reply in the file."""

    def append(self, reply: BatchReply) -> None:
        """Appends one line. It stays in the file when the process is killed afterwards.

        Raises:
            ValueError: the file cannot be written, for example because the disk is full.
        """
        data = memoryview(reply.model_dump_json().encode() + b"\n")
        size = self._file.seek(0, os.SEEK_END)
        try:
            while data:  # a system call may write less
                data = data[self._file.write(data) :]
        except OSError as error:
            self._file.truncate(size)  # another reply may follow before the run ends
            raise ValueError(f"{self._path} cannot be written: {error.strerror}") from None
        self.statuses[reply.custom_id] = reply.response.status_code


@contextmanager
def open_replies(path: Path, custom_ids: Set[str]) -> Iterator[ReplyFile]:
    """Opens an output file, new or of an earlier run, and locks it.

    A run that is killed may leave an incomplete last line, which is cut off here.

    Args:
        custom_ids: those of the input file.

    Raises:
        ValueError: the file cannot be opened, is in use, or holds something else than replies to these requests.
    """
    _check_regular(path)
    try:
        file = FileIO(path, "a")  # unbuffered
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is in use by another run-batch") from None
        statuses, size = _read_replies(path, custom_ids)
        file.truncate(size)
        yield ReplyFile(path, file, statuses)
        os.fsync(file)


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file")


def _parse_request(path: Path, number: int, line: bytes) -> BatchRequest:
    try:
        return BatchRequest.model_validate_json(line)
    except ValidationError as error:
        [problem, *_] = error.errors()
    if problem["type"] == "json_invalid":
        raise ValueError(f"{path}, line {number} is not valid JSON: {problem['ctx']['error']}")
    if not problem["loc"]:
        raise ValueError(f"{path}, line {number} is not a JSON object")
    raise ValueError(f"{path}, line {number}: {describe(problem)[0]}")


def _read_replies(path: Path, custom_ids: Set[str]) -> tuple[dict[str, int], int]:
    """Returns the status of each reply, and the bytes of all complete lines."""
    statuses: dict[str, int] = {}
    size = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n") and _is_torn_reply(line):
                break
            reply = _parse_reply(path, number, line)
            if reply.custom_id not in custom_ids:
                raise ValueError(
                    f"{path}, line {number}: custom_id {reply.custom_id!r} is not in the input file; "
                    "choose another output file"
                )
            statuses[reply.custom_id] = reply.response.status_code
            size += len(line)
    return statuses, size


def _is_torn_reply(line: bytes) -> bool:
    """Whether the start of a line may be ours. A machine that crashed may have left zeros."""
    start = line[: len(_REPLY_START)].rstrip(b"\0")
    return _REPLY_START.startswith(start)


def _parse_reply(path: Path, number: int, line: bytes) -> BatchReply:
    try:
        return BatchReply.model_validate_json(line)
    except ValidationError:
        raise ValueError(f"{path}, line {number} is not a reply to a batch; choose another output file") from None

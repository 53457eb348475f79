"""Batches with the fake engine: the files, resuming, and replies as by HTTP."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from tests.helpers.app import client_of, make_app
from tests.helpers.waiting import until

from llamagen_server.core.errors import EngineError, EngineStoppedError
from llamagen_server.serving.batch import Batch
from llamagen_server.serving.batch_files import (
    BatchReply,
    BatchResponse,
    ReplyFile,
    check_requests,
    open_replies,
    read_requests,
)

GENERATIONS = "/v1/images/generations"


def line(custom_id: str, url: str = GENERATIONS, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"class_id": 3, "seed": 5, **body}}


def write(path: Path, lines: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def content(path: Path) -> bytes:
    return path.read_bytes()


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The responses by custom id, none of which is there twice."""
    replies = [json.loads(text) for text in path.read_text().splitlines()]
    assert all(reply.keys() == {"id", "custom_id", "response", "error"} for reply in replies)
    assert len({reply["id"] for reply in replies}) == len(replies)
    responses = {reply["custom_id"]: reply["response"] for reply in replies}
    assert len(responses) == len(replies)
    return responses


async def run(app: FastAPI, source: Path, out: Path) -> None:
    """As ``llamagen run-batch`` does, with the app's pipeline."""
    custom_ids = check_requests(source)
    with open_replies(out, custom_ids) as replies:
        finished = frozenset(replies.statuses)
        requests = (request for _, request in read_requests(source) if request.custom_id not in finished)
        await Batch(["tiny"], app.state.pipeline, replies, len(custom_ids)).run(requests)


@pytest.fixture
def app(class_model_dir: Path) -> FastAPI:
    return make_app(class_model_dir)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


async def test_replies_are_those_by_http(app: FastAPI, source: Path, out: Path) -> None:
    requests = [
        line("openai", n=2, output_format="webp"),
        line("ours", "/generate", response_format="codes", logprobs=True),
        line("wrong value", cfg_scale="four"),
        line("wrong model", model="dall-e-3"),
        line("not a number", cfg_scale=float("nan")),
    ]
    await run(app, write(source, requests), out)
    responses = read(out)
    assert {custom_id: response["status_code"] for custom_id, response in responses.items()} == {
        "openai": 200,
        "ours": 200,
        "wrong value": 400,
        "wrong model": 404,
        "not a number": 400,
    }
    varying = ("created", "id", "timings")
    async with client_of(app) as client:
        for request in requests:
            by_http = await client.post(
                request["url"], content=json.dumps(request["body"]), headers={"content-type": "application/json"}
            )
            body = responses[request["custom_id"]]["body"]
            assert {k: v for k, v in body.items() if k not in varying} == {
                k: v for k, v in by_http.json().items() if k not in varying
            }


@pytest.mark.parametrize(
    ("url", "body", "message"),
    [
        (GENERATIONS, {"stream": True}, "stream is true, must be false in a batch"),
        (GENERATIONS, {"response_format": "url"}, "response_format is 'url', must be 'b64_json' in a batch"),
        ("/generate", {"response_format": "binary"}, "response_format is 'binary', must be 'b64_json' in a batch"),
    ],
)
async def test_a_reply_that_is_not_one_json_object_is_refused(
    app: FastAPI, source: Path, out: Path, url: str, body: dict[str, Any], message: str
) -> None:
    await run(app, write(source, [line("a", url, **body), line("b")]), out)
    responses = read(out)
    assert (responses["a"]["status_code"], responses["b"]["status_code"]) == (400, 200)
    [param] = body
    assert responses["a"]["body"] == {
        "error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no requests"),
        ("\n\n", "contains no requests"),
        ('{"custom_id": \n', "line 1 is not valid JSON: EOF while parsing"),
        ("[1]\n", "line 1 is not a JSON object"),
        (json.dumps(line("a")) + "\n\n{}\n", "line 3: custom_id is missing"),
        (json.dumps(line("")), "line 1: custom_id is ''"),
        (json.dumps(line("a") | {"custom_id": 7}), "line 1: custom_id is 7"),
        (json.dumps(line("a") | {"method": "GET"}), "line 1: method is 'GET': input should be 'POST'"),
        (
            json.dumps(line("a", "/v1/images/edits")),
            "line 1: url is '/v1/images/edits': input should be '/v1/images/generations' or '/generate'",
        ),
        (
            json.dumps(line("a") | {"body": "a red circle"}),
            "line 1: the body is 'a red circle': input should be an object",
        ),
        ("\n".join(json.dumps(line(x)) for x in "abcb"), "custom_id 'b' is on line 2 and again on line 4"),
    ],
)
def test_a_wrong_input_file_is_refused(source: Path, text: str, message: str) -> None:
    source.write_text(text)
    with pytest.raises(ValueError, match="in.jsonl") as error:
        check_requests(source)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing.jsonl cannot be read: No such file or directory"):
        check_requests(tmp_path / "nothing.jsonl")
    with pytest.raises(ValueError, match="is not a regular file"):
        check_requests(tmp_path)
    with (
        pytest.raises(ValueError, match="out.jsonl cannot be written: No such file"),
        open_replies(tmp_path / "nothing" / "out.jsonl", {"a"}),
    ):
        pass


def test_a_file_from_windows_is_read(source: Path) -> None:
    lines = [json.dumps(line(name)) for name in "ab"]
    source.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode() + b"\r\n")
    assert check_requests(source) == {"a", "b"}
    source.write_bytes(json.dumps(line("a")).encode() + b"\n\xef\xbb\xbf" + lines[1].encode())
    with pytest.raises(ValueError, match="line 2 is not valid JSON"):
        check_requests(source)


def test_input_is_read_line_by_line(source: Path) -> None:
    """A wrong line at the end is not seen before its turn, so earlier ones were not held back for it."""
    source.write_text(json.dumps(line("a")) + "\n{}\n")
    requests = read_requests(source)
    assert next(requests)[1].custom_id == "a"
    with pytest.raises(ValueError, match="line 2"):
        next(requests)


def answer(custom_id: str, status: int = 200) -> BatchReply:
    return BatchReply(custom_id=custom_id, response=BatchResponse(status_code=status, request_id="r", body={"x": "é"}))


def test_a_torn_last_line_is_cut_off_at_every_byte(out: Path) -> None:
    with open_replies(out, {"a", "b"}) as replies:
        replies.append(answer("a"))
        size = out.stat().st_size
        replies.append(answer("b"))
    whole = out.read_bytes()
    for end in range(size, len(whole)):
        out.write_bytes(whole[:end])
        with open_replies(out, {"a", "b"}) as replies:
            assert replies.statuses == {"a": 200}
        assert out.read_bytes() == whole[:size]
    out.write_bytes(whole[:size] + bytes(100))  # left by a machine that crashed
    with open_replies(out, {"a", "b"}) as replies:
        assert replies.statuses == {"a": 200}
    assert out.read_bytes() == whole[:size]


@pytest.mark.parametrize("text", ["notes", "notes\n", '{"custom_id": "a"}\n', '{"id": "x"', "{}\n", "[]\n"])
def test_a_file_of_something_else_is_left_as_it_is(out: Path, text: str) -> None:
    out.write_text(text)
    with pytest.raises(ValueError, match="out.jsonl, line 1 is not a reply to a batch"), open_replies(out, {"a"}):
        pass
    assert out.read_text() == text


def test_the_replies_of_another_input_are_left_as_they_are(out: Path) -> None:
    with open_replies(out, {"a"}) as replies:
        replies.append(answer("a"))
    before = out.read_bytes()
    with pytest.raises(ValueError, match="line 1: custom_id 'a' is not in the input file"), open_replies(out, {"b"}):
        pass
    assert out.read_bytes() == before


def test_two_runs_cannot_write_one_file(out: Path) -> None:
    with (
        open_replies(out, {"a"}),
        pytest.raises(ValueError, match="is in use by another run-batch"),
        open_replies(out, {"a"}),
    ):
        pass
    with open_replies(out, {"a"}):
        pass


async def test_a_cancelled_run_is_resumed_without_repeating_a_line(app: FastAPI, source: Path, out: Path) -> None:
    engine = app.state.pipeline.engine
    engine.max_num_seqs = 2
    write(source, (line(f"{i}", seed=i) for i in range(20)))
    engine.go_on.clear()
    running = asyncio.create_task(run(app, source, out))
    await engine.until_requested(4)
    assert len(engine.requests) == 4  # twice the engine's batch, not the whole file
    engine.go_on.set()
    await engine.until_requested(9)
    engine.go_on.clear()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    before = content(out)
    finished = read(out).keys()
    assert 0 < len(finished) < 20

    engine.go_on.set()
    engine.requests.clear()
    await run(app, source, out)
    assert content(out).startswith(before)
    assert read(out).keys() == {f"{i}" for i in range(20)}
    assert sorted(request.sampling.seed for request in engine.requests) == sorted(
        i for i in range(20) if f"{i}" not in finished
    )


async def test_requests_that_fail_in_the_engine_have_no_reply_and_are_repeated(
    app: FastAPI, source: Path, out: Path
) -> None:
    engine = app.state.pipeline.engine
    write(source, (line(f"{i}", seed=i) for i in range(10)))
    engine.error, engine.error_seeds = EngineError("the engine failed on this request"), frozenset({3, 7})
    with pytest.raises(EngineError, match="2 requests failed and have no reply; the same command repeats them"):
        await run(app, source, out)
    assert read(out).keys() == {f"{i}" for i in range(10)} - {"3", "7"}
    engine.error = None
    await run(app, source, out)
    assert {response["status_code"] for response in read(out).values()} == {200}
    assert len(read(out)) == 10


async def test_a_late_request_has_no_reply_and_is_repeated(app: FastAPI, source: Path, out: Path) -> None:
    """Its timeout may suffice when the machine has less to do."""
    engine = app.state.pipeline.engine
    write(source, [line("late", seed=1, timeout=1), line("ok", seed=2)])
    engine.go_on.clear()
    running = asyncio.create_task(run(app, source, out))

    async def is_aborted() -> bool:
        return engine.aborted != []

    await until(is_aborted)
    engine.go_on.set()
    with pytest.raises(EngineError, match="1 requests failed and have no reply"):
        await running
    assert read(out).keys() == {"ok"}
    await run(app, source, out)
    assert read(out).keys() == {"ok", "late"}


async def test_a_dead_engine_ends_the_run(app: FastAPI, source: Path, out: Path) -> None:
    engine = app.state.pipeline.engine
    engine.max_num_seqs = 1
    write(source, (line(f"{i}") for i in range(50)))
    engine.error, engine.dead = EngineStoppedError("the engine stopped"), True
    with pytest.raises(EngineError, match="the engine stopped"):
        await run(app, source, out)
    assert len(engine.requests) < 5
    assert content(out) == b""


class FullDisk(FileIO):
    """A file on a disk with little space left. ``space`` is in bytes."""

    space = 30

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        if not self.space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = super().write(data[: self.space])
        self.space -= count
        return count


def test_a_full_disk_is_reported_with_the_files_name_and_leaves_no_torn_line(out: Path) -> None:
    with open_replies(out, {"a", "b", "c"}) as replies:
        replies.append(answer("a"))
    before = content(out)
    with FullDisk(out, "a") as file:
        replies = ReplyFile(out, file, {})
        with pytest.raises(ValueError, match="out.jsonl cannot be written: No space left on device"):
            replies.append(answer("b"))
        assert content(out) == before
        assert replies.statuses == {}
        file.space = 1000  # another worker of the run appends
        replies.append(answer("c"))
    assert content(out).startswith(before)
    assert read(out).keys() == {"a", "c"}


async def test_progress_is_logged_where_there_is_no_terminal(
    app: FastAPI, source: Path, out: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llamagen_server.serving.batch.LOG_SECONDS", 0)
    caplog.set_level("INFO", "llamagen_server.serving.batch")
    await run(app, write(source, [line("a", n=2), line("b", n=0)]), out)
    messages = [record.message for record in caplog.records if record.name == "llamagen_server.serving.batch"]
    assert "1 of 2 lines have a reply" in messages[0]
    assert "2 of 2 lines have a reply: 1 ok, 1 refused; 2 images" in messages[-1]

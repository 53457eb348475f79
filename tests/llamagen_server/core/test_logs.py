"""Lines of the log, as text and as JSON."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from tests.helpers.app import client_of, make_app

from llamagen_server.core.logs import REQUEST_ID, JsonFormatter, TextFormatter, set_up


class Log:
    """A logger that writes to a text."""

    def __init__(self, formatter: logging.Formatter, name: str) -> None:
        self.output = io.StringIO()
        self.handler = logging.StreamHandler(self.output)
        self.handler.setFormatter(formatter)
        self.logger = logging.getLogger(name)
        self.logger.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.output.getvalue().splitlines()


@pytest.fixture(params=[TextFormatter, JsonFormatter])
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    log = Log(request.param(), "llamagen_server")
    level = log.logger.level
    log.logger.setLevel(logging.INFO)
    yield log
    log.logger.removeHandler(log.handler)
    log.logger.setLevel(level)


async def test_every_line_of_a_request_has_its_id(log: Log, class_model_dir: Path) -> None:
    app = make_app(class_model_dir)
    app.state.pipeline.engine.error = ZeroDivisionError("secret\ndetail")
    async with client_of(app) as client:
        ids = ["a" * 32, "b-2", "c.3"]
        await asyncio.gather(
            *(client.post("/generate", json={"class_id": 0}, headers={"x-request-id": name}) for name in ids)
        )
    assert REQUEST_ID.get() == ""
    for name in ids:
        if isinstance(log.handler.formatter, JsonFormatter):
            found = [line for line in map(json.loads, log.lines) if line["request_id"] == name]
            assert [line["level"] for line in found] == ["ERROR", "INFO"]
            assert found[0]["message"] == "request failed"
            assert found[0]["exception"].endswith("secret\ndetail")
            assert re.fullmatch(r"POST /generate 500 \d+ ms", found[1]["message"])
            assert datetime.fromisoformat(found[0]["time"]).tzinfo is not None
        else:
            starts = [line.partition(name)[2] for line in log.lines if f" {name} " in line]
            assert starts[0] == " request failed"
            assert re.fullmatch(r" POST /generate 500 \d+ ms", starts[1])
            assert len(starts) == 2


def test_lines_outside_a_request(log: Log) -> None:
    log.logger.info("the %s\nline", "only")
    if isinstance(log.handler.formatter, JsonFormatter):
        [line] = log.lines
        fields = json.loads(line)
        assert (fields["message"], fields["request_id"], fields["logger"]) == ("the only\nline", "", "llamagen_server")
        assert "exception" not in fields
    else:
        assert re.fullmatch(r"INFO \d\d-\d\d \d\d:\d\d:\d\d the only", log.lines[0])


def test_set_up_changes_the_format_of_our_own_handler_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(logging.StreamHandler[io.StringIO]):
        pass

    ours, other = logging.StreamHandler(io.StringIO()), Other(io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [ours, other])
    set_up("json")
    assert isinstance(ours.formatter, JsonFormatter)
    set_up()
    assert isinstance(ours.formatter, TextFormatter)
    assert other.formatter is None


def test_set_up_keeps_warnings_about_files_out_of_the_log(recwarn: pytest.WarningsRecorder) -> None:
    set_up()
    for module in ("PIL.TiffImagePlugin", "elsewhere"):
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "file.py", 1, module)
    assert len(recwarn) == 1

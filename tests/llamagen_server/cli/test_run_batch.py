"""``llamagen run-batch``: its flags, and files that are refused before the model loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llamagen_server.cli import main as cli
from llamagen_server.serving.batch_files import BatchReply, BatchResponse, open_replies

LINE = {"custom_id": "a", "method": "POST", "url": "/generate", "body": {"class_id": 3}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(LINE) + "\n")
    return path


def run(*argv: object) -> int:
    """Runs the command; returns its exit code."""
    try:
        cli.main(["run-batch", *map(str, argv)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Runs a command that must fail with exit code 2; returns the last line of its error."""
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_help_shows_our_own_flags_and_the_whole_help_also_vllms(capsys: pytest.CaptureFixture[str]) -> None:
    own = (
        "-i IN.jsonl, --input-file IN.jsonl",
        "-o OUT.jsonl, --output-file OUT.jsonl",
        "--cfg-branches",
        "--vq-dtype",
    )
    for flag, has_vllms in (("--help", False), ("--help=all", True)):
        assert run(flag) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text or f"\n  {name}\n" in text for name in own)
        assert ("--tensor-parallel-size TENSOR" in text) is has_vllms


def test_both_files_are_needed(capsys: pytest.CaptureFixture[str], source: Path) -> None:
    assert "-o/--output-file" in fails(capsys, "-i", source)


def test_wrong_files_end_with_one_line(capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    nothing = tmp_path / "nothing.jsonl"
    assert fails(capsys, "-i", nothing, "-o", out) == (
        f"llamagen run-batch: {nothing} cannot be read: No such file or directory"
    )
    assert f"{source}, line 1 is not a reply to a batch" in fails(capsys, "-i", source, "-o", source)
    assert source.read_text() == json.dumps(LINE) + "\n"
    with open_replies(out, {"a"}):
        assert fails(capsys, "-i", source, "-o", out) == f"llamagen run-batch: {out} is in use by another run-batch"
    source.write_text("{")
    assert f"{source}, line 1 is not valid JSON" in fails(capsys, "-i", source, "-o", out)


def test_a_wrong_model_ends_with_one_line(capsys: pytest.CaptureFixture[str], source: Path, tmp_path: Path) -> None:
    line = fails(capsys, tmp_path / "model", "-i", source, "-o", tmp_path / "out.jsonl")
    assert f"llamagen run-batch: {tmp_path}/model does not exist; a model is a directory with" in line
    assert not (tmp_path / "out.jsonl").exists()


def test_a_finished_batch_does_not_load_the_model(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.jsonl"
    with open_replies(out, {"a"}) as replies:
        replies.append(
            BatchReply(custom_id="a", response=BatchResponse(status_code=200, request_id="r", body={"images": []}))
        )
    before = out.read_bytes()
    caplog.set_level("INFO")
    assert run("-i", source, "-o", out) == 0
    assert [record.message for record in caplog.records] == [f"{out}: 1 of 1 lines have a reply"]
    assert out.read_bytes() == before

"""The command line: help, and errors that end with one line and exit code 2."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llamagen_server import __version__
from llamagen_server.cli import main as cli
from llamagen_server.cli.generate import split_words
from llamagen_server.engine import cpu


@pytest.fixture(autouse=True)
def keep_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line tunes the process that it runs in, which here is that of all tests."""
    monkeypatch.setattr(cpu, "tune_process", lambda vq_parameters: 1)


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Runs a command that must fail; returns the last line of its error."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(a) for a in argv])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, text in ((["--version"], __version__), (["--help"], "serve a model over HTTP")):
        with pytest.raises(SystemExit) as end:
            cli.main(argv)
        assert end.value.code == 0
        assert text in capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_commands_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert re.search(rf"^examples?:\n  llamagen {command} ", text, re.M)


@pytest.mark.parametrize("words", [["eval", "samples.npz"], ["tokenizer", "eval", "photos"]])
def test_arguments_of_evaluations_are_parsed_without_torch(words: list[str]) -> None:
    code = (
        f"import sys; from llamagen_server.cli.main import _parser; _parser({words}).parse_args({words}); "
        "sys.exit(', '.join({'torch', 'vllm', 'transformers', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_help_of_serve_shows_our_own_flags_first_and_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    own = (
        "--host",
        "--port",
        "--api-key",
        "--api-key-file",
        "--ssl-certfile",
        "--allowed-origins",
        "--log-format",
        "--max-in-flight",
        "--default-timeout",
        "--max-timeout",
        "--max-restarts",
        "--hang-timeout",
        "--cfg-branches",
        "--vq-dtype",
    )
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {flag} " in text for flag in own)
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help=all"])
    text = capsys.readouterr().out
    first_of_vllm = text.index("\nModelConfig")
    assert all(0 < text.index(f"\n  {flag} ") < first_of_vllm for flag in own)
    assert text.index("--tensor-parallel-size") > first_of_vllm


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice: 'srve'" in fails(capsys, "srve")


@pytest.mark.parametrize("command", ["serve", "generate"])
def test_unknown_model_directory(command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rest = [] if command == "serve" else ["a dog", "-o", tmp_path / "x.png"]
    line = fails(capsys, command, tmp_path / "nothing", *rest)
    assert f"llamagen {command}: {tmp_path}/nothing does not exist; a model is a directory with" in line


def test_damaged_model_directories(capsys: pytest.CaptureFixture[str], class_model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(class_model_dir, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in fails(capsys, "serve", broken)
    weights.unlink()
    assert "model.safetensors" in fails(capsys, "serve", broken)
    shutil.copy(class_model_dir / "vq" / "model.safetensors", weights)
    assert "missing" in fails(capsys, "serve", broken)


def test_generate_checks_its_arguments(
    capsys: pytest.CaptureFixture[str], class_model_dir: Path, text_model_dir: Path, tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "x.png")
    assert "nothing to generate: give a prompt" in fails(capsys, "generate", *out)
    assert "give prompts or --class-id, not both" in fails(capsys, "generate", "a dog", "--class-id", 3, *out)
    assert "n is 0: input should be greater than or equal to 1" in fails(capsys, "generate", "a dog", "-n", 0, *out)
    assert "n is 11" in fails(capsys, "generate", "a dog", "-n", 11, *out)
    assert "invalid float value: 'four'" in fails(capsys, "generate", "a dog", "--cfg-scale", "four", *out)
    both = ("--cfg-scale", 3, "--guidance-scale", 3)
    assert "guidance_scale and cfg_scale are both given" in fails(capsys, "generate", "a dog", *both, *out)
    assert "cfg_scale is nan" in fails(capsys, "generate", "a dog", "--cfg-scale", "nan", *out)
    assert "unknown image format .gif" in fails(capsys, "generate", "a dog", "-o", tmp_path / "x.gif")
    (tmp_path / "file").touch()
    folder = f"the folder {tmp_path / 'file'} cannot be made: File exists"
    assert folder in fails(capsys, "generate", "a dog", "-o", tmp_path / "file" / "x.png")


def test_a_wrong_condition_is_refused_before_the_engine_starts(
    capsys: pytest.CaptureFixture[str], class_model_dir: Path, text_model_dir: Path, tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "x.png")
    assert "generates from a class, not from a prompt" in fails(capsys, "generate", class_model_dir, "a dog", *out)
    assert "class_id is 10, must be 0 to 9" in fails(capsys, "generate", class_model_dir, "--class-id", 10, *out)
    assert "generates from a prompt, not from a class" in fails(
        capsys, "generate", text_model_dir, "--class-id", 1, *out
    )


def test_the_demo_is_chosen_by_its_kind(
    capsys: pytest.CaptureFixture[str], class_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("-o", tmp_path / "x.png")
    both = f"llamagen serve: give either MODEL or --demo, got {class_model_dir} and --demo class"
    assert fails(capsys, "serve", class_model_dir, "--demo", "class") == both
    assert "invalid choice: 'video' (choose from" in fails(capsys, "serve", "--demo", "video")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a dog").mkdir()  # beside --demo, every word is a condition
    message = fails(capsys, "generate", "--demo", "class", "a dog", *out)
    assert "prompt 'a dog' is not a label of this model; nearest: dog" in message
    assert "class_id is 64, must be 0 to 63" in fails(capsys, "generate", "--demo", "class", "--class-id", 64, *out)
    assert "generates from a prompt" in fails(capsys, "generate", "--demo", "text", "--class-id", 64, *out)


def test_an_address_in_use_is_reported_before_the_model_loads(
    capsys: pytest.CaptureFixture[str], class_model_dir: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails(capsys, "serve", class_model_dir, "--port", port)
        assert line == f"llamagen serve: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert "--port is 99999, must be 0 to 65535" in fails(capsys, "serve", class_model_dir, "--port", 99999)


def test_flags_that_leave_no_room_for_an_image(capsys: pytest.CaptureFixture[str], class_model_dir: Path) -> None:
    line = fails(capsys, "serve", class_model_dir, "--port", 0, "--max-model-len", 10)
    assert "--max-model-len is 10, one image of this model needs 65" in line
    line = fails(capsys, "serve", class_model_dir, "--port", 0, "--kv-cache-memory-bytes", 10)
    assert "--kv-cache-memory-bytes is 10, one image of this model needs" in line


def test_the_first_word_is_the_model_if_it_looks_like_one(tmp_path: Path) -> None:
    assert split_words([str(tmp_path), "a dog"]) == (str(tmp_path), ["a dog"])
    assert split_words(["./typo", "a dog"]) == ("./typo", ["a dog"])
    assert split_words(["a dog w/ a hat", "a cat"]) == (None, ["a dog w/ a hat", "a cat"])
    assert split_words([]) == (None, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n\n", "contains no key"),
        (b"good\ntwo words\n", "line 2: a key must be printable ASCII without spaces"),
        (b"\xff\xfe", "not a text file"),
    ],
)
def test_a_wrong_key_file_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, message: str
) -> None:
    secret = tmp_path / "keys"
    if content is not None:
        secret.write_bytes(content)
    line = fails(capsys, "serve", "--api-key-file", secret)
    assert line.startswith(f"llamagen serve: the key file {secret}")
    assert message in line
    assert "two words" not in line


def test_a_negative_shutdown_timeout_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "shutdown" in fails(capsys, "serve", "--shutdown-timeout", -1)
    assert "--max-in-flight is 0, must be at least 1" in fails(capsys, "serve", "--max-in-flight", 0)
    assert "--max-timeout is -1, must be more than 0 seconds" in fails(capsys, "serve", "--max-timeout", -1)
    line = fails(capsys, "serve", "--default-timeout", 4000)
    assert "--default-timeout is 4000, must be more than 0 and at most 3600 seconds" in line


def test_wrong_tls_files_are_reported_before_the_model_loads(
    capsys: pytest.CaptureFixture[str], class_model_dir: Path, tmp_path: Path
) -> None:
    line = fails(capsys, "serve", class_model_dir, "--port", 0, "--ssl-certfile", tmp_path / "x")
    assert line == f"llamagen serve: --ssl-certfile {tmp_path}/x: No such file or directory"
    line = fails(capsys, "serve", class_model_dir, "--port", 0, "--ssl-keyfile", tmp_path / "x")
    assert line == "llamagen serve: --ssl-keyfile is given without --ssl-certfile"


@pytest.mark.parametrize("origin", ["example.com", "https://a.com/", "https://A.com", "null", "", "https://a b", "**"])
def test_an_origin_that_no_browser_sends_is_refused(capsys: pytest.CaptureFixture[str], origin: str) -> None:
    line = fails(capsys, "serve", "--allowed-origins", origin)
    assert line.startswith(f"llamagen serve: --allowed-origins is {origin!r}, must be * or SCHEME://HOST[:PORT]")

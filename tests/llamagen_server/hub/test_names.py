"""Official models by name: download, conversion on first use, cache, and one line for every fault."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import load_file
from tests.helpers.hub_server import REPO, REVISION, Hub, use_golden_catalogue

from llamagen_server.cli import main as cli
from llamagen_server.cli.generate import split_words
from llamagen_server.hub import catalogue
from llamagen_server.hub.names import resolve_checkpoint, resolve_model
from llamagen_server.model_dir import ModelDir
from llamagen_server.pipeline.build import open_model, public_name


def same_weights(directory: Path, other: Path) -> bool:
    one, two = load_file(directory / "model.safetensors"), load_file(other / "model.safetensors")
    return one.keys() == two.keys() and all(one[name].equal(two[name].to(one[name].dtype)) for name in one)


def test_a_model_is_made_on_first_use_and_kept(
    hub: Hub, cache: Path, class_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_model("c2i-B-256")
    assert model.path == cache / "models" / "c2i-B-256"
    assert public_name(model) == "c2i-B-256"
    assert (model.image_size, model.config.num_classes) == (64, 10)
    assert same_weights(model.path, class_model_dir)
    assert hub.downloads == [("c2i_B_256.pt", None), ("vq_ds16_c2i.pt", None)]
    visible = sorted(path.name for path in model.path.parent.iterdir() if not path.name.endswith(".lock"))
    assert visible == ["c2i-B-256"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_model("c2i_b_256").path == model.path  # case and underscores do not matter
    assert len(hub.downloads) == 2


def test_a_text_model_has_its_encoder_by_id_and_shares_the_image_tokenizer(hub: Hub, cache: Path) -> None:
    resolve_model("c2i-B-256")
    directory = resolve_model("t2i-XL-stage1-256")
    assert ModelDir.open(directory).text_encoder == "google/flan-t5-xl"
    assert [name for name, _ in hub.downloads].count("vq_ds16_c2i.pt") == 1


def test_files_that_were_put_into_the_folder_need_no_network(
    monkeypatch: pytest.MonkeyPatch, golden_dir: Path, cache: Path
) -> None:
    use_golden_catalogue(monkeypatch, golden_dir)
    with pytest.raises(ValueError, match="cannot be downloaded") as raised:
        resolve_model("c2i-B-256")
    assert str(raised.value) == (
        f"c2i_B_256.pt cannot be downloaded from {constants.ENDPOINT}/{REPO} (HF_HUB_OFFLINE is set); "
        f"put the file into {cache}/checkpoints, or let HF_ENDPOINT name a mirror"
    )
    shutil.copy(golden_dir / "tiny_c2i.pt", cache / "checkpoints" / "c2i_B_256.pt")
    shutil.copy(golden_dir / "tiny_vq.pt", cache / "checkpoints" / "vq_ds16_c2i.pt")
    assert ModelDir.open(resolve_model("c2i-B-256")).image_size == 64


def test_files_of_the_hubs_own_cache_are_used(
    hub: Hub, golden_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its library keeps them: a link to a file whose name is its checksum."""
    use_golden_catalogue(monkeypatch, golden_dir, checksums=False)
    found = Path(hf_hub_download(REPO, "vq_ds16_c2i.pt", revision=REVISION))
    assert found.is_symlink()
    assert resolve_checkpoint("vq-ds16-c2i") == found
    assert len(hub.downloads) == 1
    assert not (cache / "checkpoints").exists()
    found.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged or another file"):
        resolve_checkpoint("vq-ds16-c2i")


def test_a_download_goes_on_after_the_connection_is_cut(hub: Hub, cache: Path) -> None:
    hub.cuts["c2i_B_256.pt"] = 100_000
    resolve_model("c2i-B-256")
    assert hub.downloads == [("c2i_B_256.pt", None), ("c2i_B_256.pt", "bytes=100000-"), ("vq_ds16_c2i.pt", None)]
    content = (cache / "checkpoints" / "c2i_B_256.pt").read_bytes()
    assert content == hub.files["c2i_B_256.pt"]


def test_an_earlier_download_is_continued(hub: Hub, cache: Path) -> None:
    content = hub.files["vq_ds16_c2i.pt"]
    etag = hashlib.sha256(content).hexdigest()
    (cache / "checkpoints").mkdir(parents=True)
    left = cache / "checkpoints" / f".vq_ds16_c2i.pt.{etag}.incomplete"
    left.write_bytes(content[:5000])
    found = Path(resolve_checkpoint("vq-ds16-c2i"))
    assert hub.downloads == [("vq_ds16_c2i.pt", "bytes=5000-")]
    assert found.read_bytes() == content
    assert not left.exists()
    found.unlink()
    left.write_bytes(content + b"more")
    assert Path(resolve_checkpoint("vq-ds16-c2i")).read_bytes() == content


@pytest.mark.parametrize("checksums", [True, False])
def test_a_damaged_download_is_refused_and_removed(
    hub: Hub, cache: Path, golden_dir: Path, monkeypatch: pytest.MonkeyPatch, checksums: bool
) -> None:
    """By the checksum in the table, or the one that the hub states."""
    use_golden_catalogue(monkeypatch, golden_dir, checksums=checksums)
    hub.damaged.add("c2i_B_256.pt")
    with pytest.raises(ValueError, match="c2i_B_256.pt.*damaged or another file, SHA-256 .*it was removed: try again"):
        resolve_model("c2i-B-256")
    assert [path.name for path in (cache / "checkpoints").iterdir()] == [".c2i_B_256.pt.lock"]
    assert not (cache / "models" / "c2i-B-256").exists()
    hub.damaged.clear()
    resolve_model("c2i-B-256")


def test_a_damaged_file_of_the_user_is_refused_and_kept(hub: Hub, cache: Path) -> None:
    (cache / "checkpoints").mkdir(parents=True)
    mine = cache / "checkpoints" / "c2i_B_256.pt"
    mine.write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"^{mine}: damaged or another file, .*; remove it, or put the official"):
        resolve_model("c2i-B-256")
    assert mine.read_bytes() == b"something else"


def test_another_checksum_than_the_tables_is_refused(
    hub: Hub, golden_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mirror with other content, whose own checksum fits that content."""
    hub.files["vq_ds16_c2i.pt"] = b"another file"
    with pytest.raises(ValueError, match="damaged or another file"):
        resolve_checkpoint("vq-ds16-c2i")


@pytest.mark.parametrize("fault", ["file", "revision", "repository", "server"])
def test_a_file_that_the_hub_does_not_give(
    hub: Hub, golden_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    file = catalogue.TOKENIZERS["vq-ds16-c2i"].file
    changes = {"file": {"name": "gone.pt"}, "revision": {"revision": "f" * 40}, "repository": {"repo": "nobody/none"}}
    changed = dataclasses.replace(file, **changes.get(fault, {}))
    monkeypatch.setattr(catalogue, "TOKENIZERS", {"vq-ds16-c2i": catalogue.NamedTokenizer(changed, "VQ-16", None)})
    if fault == "server":
        template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    with pytest.raises(
        ValueError, match=rf"^{changed.name} cannot be downloaded from .*/{changed.repo} \(.+\); put"
    ) as raised:
        resolve_checkpoint("vq-ds16-c2i")
    assert "\n" not in str(raised.value)


def test_the_token_goes_to_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    resolve_checkpoint("vq-ds16-c2i")
    assert hub.authorizations == [("HEAD", "Bearer hf_secret"), ("GET", None)]


PROCESS = """
import sys
from pathlib import Path
import pytest
from tests.helpers.hub_server import use_golden_catalogue
from llamagen_server.core import logs
from llamagen_server.hub.names import resolve_model
logs.set_up()
use_golden_catalogue(pytest.MonkeyPatch(), Path(sys.argv[1]))
print(resolve_model("c2i-B-256"))
"""


def start(hub: Hub, golden_dir: Path, root: Path, tmp_path: Path) -> subprocess.Popen[str]:
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "huggingface")}
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(golden_dir)],
        cwd=root,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_at_once_convert_once(
    hub: Hub, cache: Path, golden_dir: Path, root: Path, tmp_path: Path
) -> None:
    processes = [start(hub, golden_dir, root, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert {out.strip() for out, _ in outputs} == {str(cache / "models" / "c2i-B-256")}
    assert sorted(hub.downloads) == [("c2i_B_256.pt", None), ("vq_ds16_c2i.pt", None)]
    assert sum("is used for the first time" in error for _, error in outputs) == 1


@pytest.mark.slow
def test_a_download_goes_on_after_its_process_was_killed(
    hub: Hub, cache: Path, golden_dir: Path, root: Path, tmp_path: Path
) -> None:
    hub.stalls["c2i_B_256.pt"] = 200_000
    process = start(hub, golden_dir, root, tmp_path)
    pattern, deadline = ".c2i_B_256.pt.*.incomplete", time.monotonic() + 60
    while not any(path.stat().st_size for path in (cache / "checkpoints").glob(pattern)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.kill()
    process.communicate()
    [left] = (cache / "checkpoints").glob(pattern)
    size = left.stat().st_size
    resolve_model("c2i-B-256")
    assert hub.downloads[1] == ("c2i_B_256.pt", f"bytes={size}-")


def test_what_a_killed_conversion_has_left_is_removed(hub: Hub, cache: Path) -> None:
    left = cache / "models" / ".c2i-B-256.123.tmp"
    left.mkdir(parents=True)
    resolve_model("c2i-B-256")
    assert not left.exists()


def test_a_path_that_exists_wins_over_a_name(
    tmp_path: Path, class_model_dir: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    shutil.copytree(class_model_dir, tmp_path / "c2i-3B-384")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("c2i-3B-384") == Path("c2i-3B-384")
    assert open_model("c2i-3B-384").config.num_classes == 10


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("c2i-XL-385", "c2i-XL-385 is neither a directory nor the name of a model; nearest: c2i-XL-384, c2i-XXL-384, "),
        ("T2I_XL_512", "T2I_XL_512 is neither a directory nor the name of a model; nearest: t2i-XL-stage2-512"),
        ("vq-ds16-c2i", "vq-ds16-c2i is an image tokenizer, not a model; `llamagen models` lists both"),
        ("models/c2i-XL-384", "models/c2i-XL-384 does not exist; a model is a directory with"),
        ("mine", "mine does not exist; a model is a directory with"),
    ],
)
def test_a_name_that_is_none(model: str, message: str, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["serve", model])
    assert end.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_cache_that_cannot_be_written_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAMAGEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="file/models/c2i-B-256: cannot be written"):
        resolve_model("c2i-B-256")
    monkeypatch.delenv("LLAMAGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self/nothing")
    with pytest.raises(ValueError, match="there is no folder for caches; LLAMAGEN_CACHE must name one"):
        resolve_model("c2i-B-256")


def test_generate_takes_a_name_as_its_first_word() -> None:
    assert split_words(["c2i-XL-384", "golden retriever"]) == ("c2i-XL-384", ["golden retriever"])
    assert split_words(["c2i_xl_348", "golden retriever"]) == ("c2i_xl_348", ["golden retriever"])
    assert split_words(["golden retriever"]) == (None, ["golden retriever"])
    assert split_words(["cat"]) == (None, ["cat"])


def test_convert_takes_names_of_checkpoints(hub: Hub, tmp_path: Path, class_model_dir: Path) -> None:
    flags = ["--gpt-ckpt", "c2i-B-256", "--vq-ckpt", "vq-ds16-c2i", "--image-size", "64"]
    cli.main(["convert", *flags, "--out", str(tmp_path / "model")])
    assert same_weights(tmp_path / "model", class_model_dir)

"""A local server that speaks the Hugging Face hub's protocol for files, and golden checkpoints under official names."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

from llamagen_server.convert import config as convert_config
from llamagen_server.convert import vq as convert_vq
from llamagen_server.hub import catalogue
from llamagen_server.hub.catalogue import HubFile, NamedModel, NamedTokenizer
from llamagen_tokenizer import VQConfig

REPO = "official/llamagen"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has and what was asked of it."""

    files: dict[str, bytes]
    port: int = 0
    cuts: dict[str, int] = field(default_factory=dict)
    """Bytes of a file after which its next download is cut off, once."""
    stalls: dict[str, int] = field(default_factory=dict)
    """Bytes of a file after which its next download stands still."""
    damaged: set[str] = field(default_factory=set)
    """Files whose content is not what their checksum says."""
    downloads: list[tuple[str, str | None]] = field(default_factory=list)
    """File and Range header of each download."""
    authorizations: list[tuple[str, str | None]] = field(default_factory=list)
    """Method and Authorization header of each request for a file."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cdn(self) -> str:
        """The host that large files are on: the same server by another name."""
        return f"http://localhost:{self.port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.hub.authorizations.append(("HEAD", self.headers.get("authorization")))
        start = f"/{REPO}/resolve/"
        if not self.path.startswith(start):
            return self._reply(401, {"X-Error-Code": "RepoNotFound"})
        revision, name = unquote(self.path.removeprefix(start)).split("/", 1)
        if revision != REVISION:
            return self._reply(404, {"X-Error-Code": "RevisionNotFound"})
        if name not in self.hub.files:
            return self._reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": REVISION})
        content = self.hub.files[name]
        return self._reply(
            302,
            {
                "X-Repo-Commit": REVISION,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self.hub.cdn}/cdn/{name}",
            },
        )

    def do_GET(self) -> None:
        name = self.path.removeprefix("/cdn/")
        if name not in self.hub.files:
            return self._reply(404, {})
        self.hub.authorizations.append(("GET", self.headers.get("authorization")))
        content = self.hub.files[name]
        if name in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = self.headers.get("range")
        self.hub.downloads.append((name, asked))
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut, stall = self.hub.cuts.pop(name, None), self.hub.stalls.pop(name, None)
        self.wfile.write(content[start : cut or stall])
        if stall is not None:
            self.wfile.flush()
            threading.Event().wait(60)
        if cut is not None or stall is not None:
            self.close_connection = True
        return None

    def _reply(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serve_hub(files: dict[str, bytes]) -> Iterator[Hub]:
    """Serves files of `REPO` at `REVISION`, as large files (LFS) are."""
    hub = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()


def golden_files(golden_dir: Path) -> dict[str, bytes]:
    """Golden checkpoints under the names of official ones."""
    names = {"c2i_B_256.pt": "tiny_c2i.pt", "t2i_XL_stage1_256.pt": "tiny_t2i.pt", "vq_ds16_c2i.pt": "tiny_vq.pt"}
    return {official: (golden_dir / name).read_bytes() for official, name in names.items()}


def use_golden_catalogue(patch: pytest.MonkeyPatch, golden_dir: Path, *, checksums: bool = True) -> None:
    """Puts golden checkpoints into the catalogue, and their shapes among the official ones."""
    files = golden_files(golden_dir)

    def file(name: str) -> HubFile:
        return HubFile(REPO, REVISION, name, hashlib.sha256(files[name]).hexdigest() if checksums else None)

    described = json.loads((golden_dir / "tiny_vq.json").read_text())
    names = ("codebook_size", "codebook_embed_dim", "z_channels", "encoder_ch_mult", "decoder_ch_mult")
    shape = {name: described["model_args"][name] for name in names}
    tiny = VQConfig.from_dict(shape | {name: described[name] for name in ("ch", "num_res_blocks")})
    patch.setattr(convert_vq, "CONFIGS", {"VQ-16": tiny})
    patch.setitem(convert_config.N_HEAD, 128, 4)
    patch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # these files are smaller than one chunk
    patch.setattr(catalogue, "TOKENIZERS", {"vq-ds16-c2i": NamedTokenizer(file("vq_ds16_c2i.pt"), "VQ-16", None)})
    models = {
        "c2i-B-256": NamedModel(file("c2i_B_256.pt"), "vq-ds16-c2i", "B", "class", 64),
        "t2i-XL-stage1-256": NamedModel(file("t2i_XL_stage1_256.pt"), "vq-ds16-c2i", "XL", "text", 64),
    }
    patch.setattr(catalogue, "MODELS", models)

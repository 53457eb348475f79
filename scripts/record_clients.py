"""Records the HTTP requests of image clients, which tests/llamagen_server/api/test_clients.py replays.

    llamagen serve --size-policy resize --edit-without-mask whole --served-model-name llamagen-demo gpt-image-1 dall-e-3
    pip install litellm langchain-community langchain-openai openai    # in an environment of its own
    npm install openai ai @ai-sdk/openai-compatible                    # in FOLDER, for scripts/record_clients.mjs
    python scripts/record_clients.py http://127.0.0.1:8000 tests/data/clients FOLDER

A proxy between the clients and the server writes each request as NAME.json. Keys and addresses are left out. The
clients raise an error if they cannot read a reply; the images of the replies are saved in the folder IMAGES, if set.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

SERVER, RECORDS = sys.argv[1].rstrip("/"), Path(sys.argv[2])
KEPT = ("content-type", "accept", "user-agent")
PROMPT = "a large red circle on a white background"
CLIENT = {"name": ""}
"""Name and versions of the packages that are recorded."""


class Proxy(BaseHTTPRequestHandler):
    """Passes ``/NAME/v1/...`` on as ``/v1/...`` and records it as NAME."""

    def do_POST(self) -> None:
        body = (
            self.rfile.read(int(self.headers["content-length"])) if "content-length" in self.headers else self.chunks()
        )
        name, _, path = self.path[1:].partition("/")
        headers = {key.lower(): value for key, value in self.headers.items() if key.lower() in KEPT}
        text = headers.get("content-type", "").startswith("application/json")
        content = {"json": json.loads(body)} if text else {"body": base64.b64encode(body).decode()}
        record = {"client": CLIENT["name"], "method": "POST", "path": f"/{path}", "headers": headers, **content}
        (RECORDS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        request = urllib.request.Request(f"{SERVER}/{path}", body, headers)
        try:
            reply = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            reply = error
        data = reply.read()
        save(name, data)
        self.send_response(reply.status)
        self.send_header("content-type", reply.headers["content-type"])
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *args: Any) -> None:
        pass


def save(name: str, reply: bytes) -> None:
    """Saves the last image of a reply, JSON or events, for a look at it."""
    if (folder := os.environ.get("IMAGES")) and b'"b64_json":' in reply:
        image = reply.split(b'"b64_json":')[-1].split(b'"')[1]
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(image))


def png(side: int, transparent_from: int) -> bytes:
    """Returns a white square with alpha; rows from ``transparent_from`` on are transparent."""
    rows = b"".join(b"\0" + bytes((255, 255, 255, 255 * (y < transparent_from))) * side for y in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


IMAGE, MASK = png(64, 64), png(64, 32)


def litellm(url: str) -> None:
    import litellm

    def options(name: str) -> dict[str, Any]:
        model = "openai/gpt-image-1"
        return {
            "model": model,
            "prompt": PROMPT,
            "api_base": f"{url}/{name}/v1",
            "api_key": "none",
            "size": "1024x1024",
        }

    assert litellm.image_generation(**options("litellm-generate")).data[0].b64_json
    assert litellm.image_generation(**options("litellm-quality"), n=2, quality="high", user="me").data[1].b64_json
    assert litellm.image_edit(image=IMAGE, mask=MASK, **options("litellm-edit")).data[0].b64_json
    assert litellm.image_edit(image=[IMAGE], **options("litellm-edit-whole")).data[0].b64_json
    stream = litellm.image_generation(**options("litellm-stream"), stream=True, partial_images=2)
    print("litellm, stream=True returns", type(stream).__name__)


def langchain(url: str) -> None:
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    def wrapper(name: str) -> Any:
        return DallEAPIWrapper(model="dall-e-3", base_url=f"{url}/{name}/v1", api_key="none", quality="hd")

    print("DallEAPIWrapper returns", wrapper("langchain-generate").run(PROMPT)[:60])


def openai(url: str) -> None:
    from openai import OpenAI

    def images(name: str) -> Any:
        return OpenAI(base_url=f"{url}/{name}/v1", api_key="none").images

    given = {"model": "gpt-image-1", "prompt": PROMPT, "size": "1024x1024"}
    file, mask = ("image.png", IMAGE, "image/png"), ("mask.png", MASK, "image/png")
    assert images("openai-generate").generate(**given).data[0].b64_json
    assert images("openai-edit").edit(image=file, mask=mask, **given).data[0].b64_json
    assert images("openai-edit-whole").edit(image=[file], **given).data[0].b64_json
    for name, call in (("openai-stream", {}), ("openai-edit-stream", {"image": file, "mask": mask})):
        method = images(name).edit if call else images(name).generate
        kinds = [event.type for event in method(**given, **call, stream=True, partial_images=2)]
        assert [kind.rpartition(".")[2] for kind in kinds] == ["partial_image", "partial_image", "completed"]


def main() -> None:
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{proxy.server_port}"
    clients = {litellm: ("litellm",), langchain: ("langchain-community", "openai"), openai: ("openai",)}
    for record, packages in clients.items():
        CLIENT["name"] = ", ".join(f"{package} {version(package)}" for package in packages)
        try:
            record(url)
        except Exception as error:
            print(f"{CLIENT['name']}: {type(error).__name__}: {error}")
    if len(sys.argv) > 3:
        folder = Path(sys.argv[3])
        shutil.copy(Path(__file__).with_suffix(".mjs"), folder)
        for kind, packages in (("openai", ["openai"]), ("ai", ["ai", "@ai-sdk/openai-compatible"])):
            files = [folder / "node_modules" / package / "package.json" for package in packages]
            named = [f"{package} {json.loads(file.read_text())['version']}" for package, file in zip(packages, files)]
            CLIENT["name"] = "npm: " + ", ".join(named)
            subprocess.run(["node", "record_clients.mjs", kind, url], cwd=folder, check=False)


main()

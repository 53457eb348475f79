"""Requests that are meant to do harm, with the status that is right for each."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import zlib
from dataclasses import dataclass, field

from PIL import Image
from tests.helpers.image_files import png

MIB = 2**20
JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
POSTS = ("/generate", "/v1/images/generations", "/v1/images/encode", "/v1/images/decode")
LOCAL = ["file:///etc/passwd", "/etc/passwd", "http://169.254.169.254/latest/meta-data", "data:text/plain,secret"]


@dataclass
class Case:
    """A request, and the statuses that are right for it."""

    name: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: JSON)
    method: str = "POST"
    status: int = 400


def part(name: bytes, content: bytes, more: bytes = b"") -> bytes:
    """One part of a multipart form."""
    return b'--x\r\ncontent-disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + content + b"\r\n"


def edit(image: bytes, mask: bytes | None = None, fields: bytes = b"") -> bytes:
    """The form of an edit."""
    file = b'; filename="a.png"'
    parts = part(b"image", image, file) + (b"" if mask is None else part(b"mask", mask, file))
    return parts + part(b"prompt", b"a red circle") + (fields or part(b"keep_rows", b"4")) + b"--x--\r\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int, more: bytes = b"") -> bytes:
    """A PNG file of a hundred bytes that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + pixels + chunk(b"IEND", b"")


def gif_of_size(side: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", side, side) + b"\0\0\0," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0;"


def webp_of_size(side: int) -> bytes:
    """A WebP animation on a canvas of side x side pixels, without frames."""
    size = (side - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size
    body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_with_damaged_exif() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 50)
    return file.getvalue()[:-20]


GOOD = png(Image.new("RGB", (64, 64)))
TEXT_BOMB = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 * MIB), 9))

BODIES = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "not JSON": b"{'prompt': 'x'}",
    "an open brace": b'{"prompt": ',
    "deep lists": b'{"prompt": ' + b"[" * 15_000 + b"]" * 15_000 + b"}",
    "lists as deep as the parser allows": b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b', "image": [], "codes": [[]]}',
    "deep objects": b'{"prompt": ' * 15_000 + b"1" + b"}" * 15_000,
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "a number of 5000 digits": b'{"seed": 1' + b"0" * 5000 + b', "prompt": "x"}',
    "NaN": b'{"prompt": "x", "cfg_scale": NaN, "codes": NaN, "image": NaN}',
    "infinity": b'{"prompt": "x", "temperature": -Infinity, "image": Infinity, "codes": Infinity}',
    "an overflow": b'{"prompt": "x", "top_p": 1e999, "image": 1e999, "codes": [1e999]}',
    "a negative number": b'{"prompt": "x", "n": -1, "image": -1, "codes": [-1]}',
    "a key twice": b'{"n": 1, "n": 99, "image": "", "image": 1, "codes": [], "codes": 1, "prompt": "x"}',
    "a lone surrogate as a key": b'{"\\ud800": 1}',
    "many unknown fields": b"{" + b",".join(b'"a%d":1' % i for i in range(15_000)) + b"}",
    "a megabyte as a key": b'{"' + b"a" * 1_000_000 + b'": 1}',
    "a megabyte as a value": b'{"prompt": "' + b"a" * 1_000_000 + b'"}',
    "booleans": b'{"prompt": true, "image": true, "codes": true}',
    "a compressed body": gzip.compress(b'{"prompt": "' + b"a" * 10_000_000 + b'"}'),
}
LARGE_BODIES = {
    "very many unknown fields": b"{" + b",".join(b'"a%d":1' % i for i in range(50_000)) + b"}",
    "open lists": b"[" * 200_000,
    "empty lists": b"[" + b"[]," * 300_000 + b"[]]",
    "objects": b'{"codes": [' + b'{"a":1},' * 120_000 + b"1]}",
    "more codes than any image has": b'{"codes": [' + b"0," * 500_000 + b"0]}",
    "9 MiB": b'{"prompt": "' + b"a" * (9 * MIB) + b'"}',
}
IMAGES = {
    "no bytes": b"",
    "no image": b"hello",
    "a huge PNG": png_of_size(60_000, 60_000),
    "the largest PNG": png_of_size(2**31 - 1, 2**31 - 1),
    "a wide PNG": png_of_size(2**31 - 1, 1),
    "a PNG without pixels": png_of_size(0, 0),
    "a truncated PNG": GOOD[:-30],
    "a PNG with 100 MiB of compressed text": png_of_size(64, 64, TEXT_BOMB),
    "a huge GIF": gif_of_size(65_535),
    "a huge WebP animation": webp_of_size(16_383),
    "damaged EXIF data": jpeg_with_damaged_exif(),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) (r) file\n%%EOF\n",
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
}
FORMS = {
    "no parts": b"",
    "no multipart": b"hello",
    "a thousand fields": b"".join(part(b"a%d" % i, b"1") for i in range(1000)) + b"--x--",
    "a thousand files": b"".join(part(b"image", b"1", b'; filename="a"') for _ in range(1000)) + b"--x--",
    "two images": part(b"image", b"1", b'; filename="a"') * 2 + b"--x--",
    "a field of 2 MiB": part(b"prompt", b"a" * 2 * MIB) + b"--x--",
    "a part with 10000 headers": b"--x\r\n" + b"a: b\r\n" * 10_000,
    "a part without a name": b"--x\r\ncontent-disposition: form-data\r\n\r\n1\r\n--x--",
    "a name that is no text": part(b"\xff\xfe", b"1") + b"--x--",
    "a number that is no text": edit(GOOD, fields=part(b"n", b"\xff")),
    "a number of 5000 digits": edit(GOOD, fields=part(b"keep_rows", b"9" * 5000)),
    "NaN": edit(GOOD, fields=part(b"cfg_scale", b"nan")),
    "a path in place of an image": part(b"image", b"file:///etc/passwd") + b"--x--",
    "a path as the file's name": part(b"image", b"x", b'; filename="../../../../etc/passwd"') + b"--x--",
    "a URL in place of a mask": part(b"mask", b"http://169.254.169.254/") + b"--x--",
    "a mask of another size": edit(GOOD, png(Image.new("RGBA", (32, 32))), part(b"feather", b"1")),
    "a huge mask": edit(GOOD, png_of_size(60_000, 60_000), part(b"feather", b"1")),
}
FORM_HEADERS = {
    "no boundary": {"content-type": "multipart/form-data"},
    "a long boundary": {"content-type": "multipart/form-data; boundary=" + "x" * 5000},
    "an unknown character set": {"content-type": "multipart/form-data; boundary=x; charset=nothing"},
    "plain text": {"content-type": "text/plain"},
}
PATHS = (
    "/images/..%2f..%2fetc%2fpasswd",
    "/images/%00",
    "/images/" + "a" * 5000,
    "/playground/..%2f..%2f..%2fpyproject.toml",
    "/playground/%2e%2e%2fapi%2fapp.py",
    "/playground/%00.js",
    "/playground/" + "a" * 5000 + ".js",
    "/v1/models/..%2f..%2fetc%2fpasswd",
    "/v1/models/%ff%fe%00",
    "/" + "%2e%2e/" * 50 + "etc/passwd",
)
METHODS = (("DELETE", "/generate"), ("TRACE", "/v1/models"), ("BREW", "/metrics"), ("PUT", "/"))


def _image_in(text: str) -> bytes:
    return json.dumps({"image": text}).encode()


CASES = [
    *(Case(f"{path}: {name}", path, body) for path in POSTS for name, body in BODIES.items()),
    *(Case(f"{path}: {name}", path, body, status=413) for path in POSTS for name, body in LARGE_BODIES.items()),
    *(
        Case(f"encode: {name}", "/v1/images/encode", _image_in(base64.b64encode(file).decode()))
        for name, file in IMAGES.items()
    ),
    *(Case(f"encode: {text}", "/v1/images/encode", _image_in(text)) for text in LOCAL),
    *(Case(f"{path}: image {text}", path, _image_in(text)) for path in POSTS[:2] for text in LOCAL),
    *(Case(f"edit: {name}", "/v1/images/edits", edit(file), FORM) for name, file in IMAGES.items()),
    *(Case(f"edit: form with {name}", "/v1/images/edits", form, FORM) for name, form in FORMS.items()),
    *(Case(f"edit: {name}", "/v1/images/edits", b"x", headers) for name, headers in FORM_HEADERS.items()),
    *(Case(f"GET {path[:40]}", path, method="GET", status=404) for path in PATHS),
    *(Case(f"{method} {path}", path, method=method, status=405) for method, path in METHODS),
]

"""Generates an image and inpaints its lower half. The upper half keeps its pixels."""

import argparse
import base64
import os
from pathlib import Path

from openai import OpenAI
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", type=Path, nargs="?", default="images", help="folder for the images")
parser.add_argument("url", nargs="?", default=os.environ.get("LLAMAGEN_URL", "http://127.0.0.1:8000"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
original, mask, edited = (args.out / f"{name}.png" for name in ("original", "mask", "edited"))

client = OpenAI(base_url=f"{args.url}/v1", api_key=os.environ.get("LLAMAGEN_API_KEY", "none"))
reply = client.images.generate(prompt="a large red circle on a white background", extra_body={"seed": 7})
original.write_bytes(base64.b64decode(reply.data[0].b64_json))

with Image.open(original) as image:
    opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
opaque.paste((0, 0, 0, 0), (0, opaque.height // 2, opaque.width, opaque.height))  # transparent pixels are inpainted
opaque.save(mask)

with original.open("rb") as image_file, mask.open("rb") as mask_file:
    reply = client.images.edit(
        image=image_file,
        mask=mask_file,
        prompt="a large red circle above a small blue square on a white background",
        extra_body={"seed": 8},
    )
edited.write_bytes(base64.b64decode(reply.data[0].b64_json))
print(original, mask, edited)

"""Saves previews of an image while it grows, then the image."""

import argparse
import base64
import os
from pathlib import Path

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("out", type=Path, nargs="?", default="images", help="folder for the images")
parser.add_argument("url", nargs="?", default=os.environ.get("LLAMAGEN_URL", "http://127.0.0.1:8000"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)

client = OpenAI(base_url=f"{args.url}/v1", api_key=os.environ.get("LLAMAGEN_API_KEY", "none"))
events = client.images.generate(
    prompt="a small blue square above a large yellow triangle", stream=True, partial_images=3, extra_body={"seed": 7}
)
for event in events:
    is_preview = event.type == "image_generation.partial_image"
    file = args.out / (f"preview-{event.partial_image_index}.png" if is_preview else "image.png")
    file.write_bytes(base64.b64decode(event.b64_json))
    print(file)

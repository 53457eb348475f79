"""Generates two images with OpenAI's client and saves them."""

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
reply = client.images.generate(
    prompt="a small blue square above a large yellow triangle",
    n=2,
    extra_body={"cfg_scale": 1.5, "seed": 7},  # fields that OpenAI's API lacks
)
for i, image in enumerate(reply.data):
    file = args.out / f"image-{i}.png"
    file.write_bytes(base64.b64decode(image.b64_json))
    print(file, "seed", image.seed)

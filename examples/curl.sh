#!/usr/bin/env bash
# Requests to a running server with curl 7.82 or newer: curl.sh [FOLDER [URL]]
set -euo pipefail
out=${1:-images}
url=${2:-${LLAMAGEN_URL:-http://127.0.0.1:8000}}
key="authorization: Bearer ${LLAMAGEN_API_KEY:-none}" # for a server with --api-key
mkdir -p "$out"

request() { curl --silent --show-error --fail-with-body -H "$key" "$@"; }

# The model, its image size and its sampling defaults.
request "$url/v1/models" -o "$out/models.json"

# An image file.
request --json '{"prompt": "a large red circle on a white background", "seed": 7}' \
  -H 'accept: image/png' "$url/generate" -o "$out/image.png"

# The codes in place of pixels, each with its log-probability.
request --json '{"prompt": "a large red circle on a white background", "seed": 7, "response_format": "codes", "logprobs": true}' \
  "$url/generate" -o "$out/codes.json"

# An edit: keeps the four upper rows of image tokens and inpaints the rest. The reply holds the file in base64.
request -F "image=@$out/image.png" -F keep_rows=4 -F seed=8 \
  -F prompt='a large red circle above a small blue square on a white background' \
  "$url/v1/images/edits" -o "$out/edited.json"

# An image that grows: server-sent events with previews, then the image.
request --no-buffer --json '{"prompt": "a blue square", "stream": true, "partial_images": 4}' \
  "$url/generate" -o "$out/events.txt"

ls "$out"

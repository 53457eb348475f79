"""From a request to its images: admission, text, engine, pixels; building all of it from a model directory."""

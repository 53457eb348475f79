"""The pipeline from a request to its images, and building it from a model directory."""

"""Makes a model directory from the files of the official repository."""

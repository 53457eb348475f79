"""Image files: reading and writing them, cropping to the model's size, contact sheets, plots."""

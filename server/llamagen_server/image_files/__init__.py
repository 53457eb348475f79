"""Reading, cropping and writing image files."""

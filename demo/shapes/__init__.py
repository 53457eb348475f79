"""The text demo: coloured shapes, described by captions and checked from the pixels."""

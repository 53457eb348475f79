"""Recipes of the embedded demo models: scenes, training, judges of generated images, studies."""

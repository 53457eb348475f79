"""Recipe of the embedded demo model: renders scenes, trains both models on them and checks generated images."""

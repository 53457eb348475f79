"""Official checkpoints by name: downloaded and converted on first use."""

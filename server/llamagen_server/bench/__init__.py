"""Speed measurements: the engine alone, and a running server under load."""

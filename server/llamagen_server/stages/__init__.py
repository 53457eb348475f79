"""The steps around the engine, each with a queue."""

"""The server of llamagen-serve: HTTP API, stages around the engine, command line."""

__version__ = "0.1.0"

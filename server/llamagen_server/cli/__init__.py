"""The command ``llamagen``: `main`, and one module for each subcommand."""

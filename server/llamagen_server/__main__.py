"""``python -m llamagen_server`` is the command ``llamagen``."""

from llamagen_server.cli.main import main

if __name__ == "__main__":  # vLLM's worker processes import this module too
    main()

"""The language-model engine: its interface, and vLLM behind it."""

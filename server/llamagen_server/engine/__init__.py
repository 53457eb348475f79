"""The language-model engine: the interface that the rest of the server uses, and vLLM behind it."""

"""The stages around the engine, each with a queue: captions to prompt embeddings, codes to pixels and back."""

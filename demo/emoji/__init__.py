"""The class demo: 64 emoji of Google's Noto Color Emoji, with an image tokenizer learnt by LlamaGen's own objective."""

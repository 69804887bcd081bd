"""Architectures of transformers: where blocks are, how prompts become tokens, who a model is."""

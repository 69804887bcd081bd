"""Architectures of transformers: where the blocks are, how prompts become tokens, who a model is."""

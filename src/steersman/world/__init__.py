"""A procedural picture world, its questions, and a tiny vision-language model trained on it.

Synthetic by design: it shows that code works and how methods compare here, and proves nothing about
real models. Importing this package loads neither torch nor transformers.
"""

from pathlib import Path

BUNDLED_MODEL = Path(__file__).with_name("bundled")

__all__ = ["BUNDLED_MODEL"]

"""What a matrix of architectures says of each one: read by the tests and by the docs."""

from collections.abc import Callable
from dataclasses import dataclass

from steersman.backends.forest import Kind
from steersman.backends.hf import HFModel

POINTS = ("resid_pre", "resid_post", "attn_out", "mlp_out", "attn_heads", "head_in")


@dataclass(frozen=True)
class Architecture:
    """One architecture of transformers, as a tiny random model.

    Attributes:
        name: as people say it.
        model_class: the class in transformers.
        build: makes the model; repeated calls answer with the same one.
        points: the points of `Site` that its blocks have.
        image: whether it reads images.
        notes: what differs from the others, in one sentence; may be empty.
        text_alone: whether it reads prompts without an image.
        shares: what prompts have in common that `capture` runs once.
    """

    name: str
    model_class: str
    build: Callable[[], HFModel]
    points: tuple[str, ...] = POINTS
    image: bool = False
    notes: str = ""
    text_alone: bool = True
    shares: tuple[Kind, ...] = ("completions", "header")

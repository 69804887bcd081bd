"""Models that turn all tokens of a pass by other angles as soon as one of them is far behind."""

from collections.abc import Iterator, Mapping

from transformers import PreTrainedConfig

BY_LENGTH = ("dynamic", "longrope")


def length_limit(config: PreTrainedConfig) -> int | None:
    """How many tokens such a model reads as it reads short texts; None for all others.

    Beyond it, what a token becomes depends on the longest row of its pass, and keys that were made
    in a shorter pass do not fit.
    """
    text = config.get_text_config(decoder=True)
    most = getattr(text, "max_position_embeddings", None)
    limits = [
        int(rope.get("original_max_position_embeddings") or most)
        for rope in _tables(getattr(text, "rope_parameters", None))
        if rope.get("rope_type") in BY_LENGTH
    ]
    return min(limits, default=None)


def _tables(found: object) -> Iterator[Mapping[str, object]]:
    """The settings of one kind of angle, or of one for each kind of block."""
    if isinstance(found, Mapping):
        if "rope_type" in found:
            yield found
        else:
            for part in found.values():
                yield from _tables(part)

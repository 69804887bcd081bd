"""What a transformers cache tells about the sequences it holds."""

from collections.abc import Callable, Mapping

from torch import Tensor

CACHES = ("past_key_values", "cache_params")
"""What forward calls and outputs call the cache; the second in Mamba-type models."""


def cache_in(values: Mapping[str, object]) -> object | None:
    """The cache among the arguments of a forward call, or among its outputs."""
    for name in CACHES:
        if values.get(name) is not None:
            return values[name]
    return None


def columns_held(cache: object, *, known: int | None = None) -> int:
    """How many columns of a batch the cache holds.

    Args:
        known: what was counted; answers where the cache keeps no count, or keeps it on the device.
    """
    try:
        held = cache.get_seq_length()  # type: ignore[attr-defined]  # a transformers cache
    except ValueError:  # nothing but linear attention, whose states have no length
        if known is not None:
            return known
        return int(cache.has_previous_state())  # type: ignore[attr-defined]
    if isinstance(held, Tensor) and known is not None:
        return known
    return int(held)


def follow_beams(cache: object, moved: Callable[[Tensor], None]) -> None:
    """Tells which row each row goes on from, whenever beams reorder this cache."""
    reorder = getattr(cache, "reorder_cache", None)
    if reorder is None:
        return

    def both(beam_idx: Tensor) -> None:
        reorder(beam_idx)
        moved(beam_idx)

    cache.reorder_cache = both  # type: ignore[attr-defined]  # of this one sequence's cache

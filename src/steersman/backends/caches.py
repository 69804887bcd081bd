"""What a transformers cache tells about the sequences it holds."""

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary, ref

from torch import Tensor

from steersman.core.errors import ModelError

CACHES = ("past_key_values", "cache_params")
"""What forward calls and outputs call the cache; the second in Mamba-type models."""
MEMORIES = ("state", "mems", "past_buckets_states")
"""What models call a memory that does not tell how many tokens it holds."""


def cache_in(values: Mapping[str, object]) -> object | None:
    """The cache among the arguments of a forward call, or among its outputs.

    Raises:
        ModelError: the model keeps its memory in another way.
    """
    for name in CACHES:
        if values.get(name) is not None:
            return values[name]
    for name in MEMORIES:
        if values.get(name) is not None:
            raise ModelError(
                f"This model keeps what it has read in {name!r}, which does not tell how many "
                "tokens that is, so steering cannot follow its answer. Generate with "
                "use_cache=False, or use another model."
            )
    return None


def columns_held(cache: object, *, known: int | None = None) -> int:
    """How many columns of a batch the cache holds.

    Args:
        known: what was counted; answers where the cache keeps no count, or keeps it on the device.
    """
    count = getattr(cache, "get_seq_length", None)
    if count is None:
        raise ModelError(
            f"The cache {type(cache).__name__} does not tell how many tokens it holds, so steering "
            "cannot follow the answer. Generate with use_cache=False, or use another model."
        )
    try:
        held = count()
    except ValueError:  # nothing but linear attention, whose states have no length
        if known is not None:
            return known
        return int(cache.has_previous_state())  # type: ignore[attr-defined]
    if isinstance(held, Tensor):
        return int(held) if known is None or at_hand(held) else known
    if held == 0:  # the first layer may be a recurrent one, whose cache stays empty
        held = max((_length(layer) for layer in getattr(cache, "layers", ())), default=0)
    return held


def at_hand(value: Tensor) -> bool:
    """Whether its numbers can be read without waiting for a device."""
    return value.device.type == "cpu"


def _length(layer: object) -> int:
    count = getattr(layer, "get_seq_length", None)
    return 0 if count is None else int(count())


_FOLLOWED: WeakKeyDictionary[Any, dict[int, Callable[[Tensor], None]]] = WeakKeyDictionary()
"""By cache and by who asked: whom to tell which row each row goes on from."""


def follow_beams(cache: Any, owner: object, moved: Callable[[Tensor], None]) -> None:
    """Tells which row each row goes on from, whenever beams reorder this cache."""
    if not hasattr(type(cache), "reorder_cache"):
        return
    itself = ref(cache)  # a strong one would keep the cache alive until garbage is collected

    def both(beam_idx: Tensor) -> None:
        kept = itself()
        assert kept is not None
        type(kept).reorder_cache(kept, beam_idx)
        for follower in list(_FOLLOWED[kept].values()):
            follower(beam_idx)

    _FOLLOWED.setdefault(cache, {})[id(owner)] = moved
    cache.reorder_cache = both


def let_go(owner: object) -> None:
    """Leaves the caches that were followed for `owner` as they were."""
    for cache, followers in list(_FOLLOWED.items()):
        if followers.pop(id(owner), None) is not None and not followers:
            del cache.reorder_cache, _FOLLOWED[cache]

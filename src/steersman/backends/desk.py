"""Desk: what one thread is doing in a run, and which sequences each forward pass belongs to."""

import threading
from collections.abc import Mapping
from typing import NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from steersman.backends.caches import cache_in, columns_held
from steersman.backends.layout import Layout, size
from steersman.backends.packed import Packed
from steersman.backends.walk import Walk
from steersman.core.errors import ModelError
from steersman.core.types import Site


class Desk(threading.local):
    """The pass at work and the sequences under way, apart for every thread.

    Attributes:
        walk: the sequences of the pass at work.
        layout: of that pass; None outside of one.
        narrowed: the same layout without tokens that nobody writes, by first offset.
        due: who reads in that pass, as policy and name, by site.
        probing: whether the pass only reads.
        drafting: whether the pass leaves out the last blocks, and is not steered.
        packed: whether the pass holds several requests in one row.
    """

    def __init__(self) -> None:
        self.walk: Walk | None = None
        self.layout: Layout | Packed | None = None
        self.narrowed: dict[int | None, Layout | Packed] = {}
        self.due: dict[Site, list[tuple[int, str]]] = {}
        self.probing = False
        self.drafting = False
        self.packed = False
        self._by_cache: WeakKeyDictionary[object, Walk] = WeakKeyDictionary()
        self._unbound: Walk | None = None
        self._uncached: tuple[Walk, Tensor | None, int] | None = None

    def __reduce__(self) -> NoReturn:
        raise ModelError(
            "A model cannot be copied or pickled while it is steered: the copy would take the "
            "hooks along. Leave the `with` first."
        )

    def continued(self, inputs: Mapping[str, object]) -> Walk | None:
        """The sequences that this pass continues; None if it begins new ones.

        Raises:
            ModelError: it continues sequences that were not seen from their beginning.
        """
        cache = cache_in(inputs)
        if cache is None:
            return self._repeated(inputs)
        walk = self._by_cache.get(cache)
        known = walk.place.columns if walk is not None and walk.place is not None else None
        held = columns_held(cache, known=known if size(inputs)[1] == 1 else None)
        if held == 0:
            return None
        if walk is None or known is None:
            raise ModelError(
                f"Steering began after {held} tokens were in the cache already. Enter `steer` "
                "before the prompt runs, and begin with an empty cache."
            )
        if held > known:
            raise ModelError(
                f"The cache holds {held} tokens, and steering saw {known} of them. Run every token "
                "inside the same `with`."
            )
        if held < walk.prompt_columns:
            raise ModelError(
                f"The cache was cut to {held} tokens, into the prompt of {walk.prompt_columns}, "
                "and steering cannot tell where the new one ends. Begin with an empty cache."
            )
        assert walk.place is not None
        if (came := size(inputs)[0]) != (began := len(walk.place.seen)):
            raise ModelError(
                f"{came} rows came, and the cache was filled with {began}: rows were copied or "
                "dropped, and steering cannot tell which is whose. Expand the prompt before it "
                "runs (num_return_sequences does), or begin with an empty cache."
            )
        walk.settle(held)
        return walk

    def repeats_all(self, walk: Walk) -> bool:
        """Whether passes of these sequences run every token again, for want of a cache."""
        return self._uncached is not None and self._uncached[0] is walk

    def begin(self, walk: Walk, inputs: Mapping[str, object]) -> None:
        """Remembers how later passes of new sequences will be known."""
        self.walk, self._unbound, self._uncached = walk, None, None
        cache = cache_in(inputs)
        if cache is not None:
            self._by_cache[cache] = walk
        elif inputs.get("use_cache") is False:
            ids = inputs.get("input_ids")
            self._uncached = (walk, ids if isinstance(ids, Tensor) else None, size(inputs)[1])
        else:
            self._unbound = walk

    def end_pass(self, output: object) -> None:
        """Leaves the pass; its output may bring the cache that the model made for it."""
        self.layout = None
        if self._unbound is not None and isinstance(output, Mapping):
            cache = cache_in(output)
            if cache is not None:
                self._by_cache[cache] = self._unbound
        self._unbound = None

    def _repeated(self, inputs: Mapping[str, object]) -> Walk | None:
        """Without a cache every pass runs the whole sequence: it continues the pass before where it
        begins with the same prompt and has one token more."""
        ids, width = inputs.get("input_ids"), size(inputs)[1]
        before, self._uncached = self._uncached, None
        if before is None or inputs.get("use_cache") is not False or not isinstance(ids, Tensor):
            return None
        walk, prompt, last = before
        if prompt is None or width != last + 1:
            return None
        if not torch.equal(ids[:, : prompt.shape[1]], prompt):
            return None
        self._uncached = (walk, prompt, width)
        return walk

"""What is added to the stream at each site, watched on both engines."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor

from steersman import Site
from steersman.backends.vllm.board import Board
from steersman.backends.walk import Walk

HEAD = Site(5, "head_in")
Deltas = dict[Site, Tensor]
"""By site `(t, d)`, summed over passes: one that only looks adds nothing."""


@contextmanager
def watched_hf() -> Iterator[Deltas]:
    """Of one request on transformers."""
    write, seen = Walk.write, Summed()

    def watching(self, h, site, layout):
        made = write(self, h, site, layout)
        seen.add(site, made - h)
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Walk, "write", watching)
        yield seen


@contextmanager
def watched_vllm() -> Iterator[Deltas]:
    """Of one request on an eager vLLM in this process."""
    tap, head, seen = Board.tap, Board.head, Summed()

    def tapped(self, site, hidden, residual):
        before = hidden.clone()
        tap(self, site, hidden, residual)
        seen.add(site, hidden - before)

    def headed(self, hidden):
        made = head(self, hidden)
        seen.add(HEAD, made - hidden)
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Board, "tap", tapped)
        patched.setattr(Board, "head", headed)
        yield seen


class Summed(defaultdict[Site, Tensor]):
    """Sums what is added by site."""

    def add(self, site: Site, delta: Tensor) -> None:
        flat = delta.detach().reshape(-1, delta.shape[-1]).clone()
        self[site] = self[site] + flat if site in self else flat

"""Packed: the layout of a pass that holds pieces of several requests in one row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from steersman.backends.layout import put_back
from steersman.core.types import Site, Tokens


@dataclass(frozen=True)
class Packed:
    """Which request and position each token of a packed row is.

    Attributes:
        offsets: the same as `offset`, known without asking the device.
        index: of each token in the row, where only some are looked at.
    """

    request: Int[Tensor, " t"]
    position: Int[Tensor, " t"]
    offset: Int[Tensor, " t"]
    modality: Int[Tensor, " t"]
    offsets: Sequence[int]
    suffix: int | None
    index: Int[Tensor, " t"] | None = None
    is_prompt: bool = True
    fresh: int | None = None
    tentative: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """One row, and its columns."""
        return (1, len(self.offsets))

    @property
    def device(self) -> torch.device:
        return self.request.device

    @property
    def is_empty(self) -> bool:
        """Whether no token is looked at."""
        return len(self.request) == 0

    def tokens(self, site: Site, h: Tensor) -> Tokens:
        """The states at a site `(1, s, d)`, those that are looked at."""
        flat = h.reshape(-1, h.shape[-1])
        return Tokens(
            site=site,
            h=flat if self.index is None else flat[self.index],
            request=self.request,
            position=self.position,
            offset=self.offset,
            modality=self.modality,
            suffix=self.suffix,
        )

    def put(self, h: Tensor, changed: Tensor) -> Tensor:
        """`h` with the tokens of this layout changed; `h` itself stays as it is."""
        return put_back(h, self.index, changed)

    def behind(self, start: int | None) -> "Packed":
        """Only tokens with an offset of `start` or more."""
        if start is None or self.index is not None:
            return self
        columns = [i for i, offset in enumerate(self.offsets) if offset >= start]
        if len(columns) == len(self.offsets):
            return self
        index = torch.tensor(columns, dtype=torch.long, device=self.device)
        return replace(
            self,
            request=self.request[index],
            position=self.position[index],
            offset=self.offset[index],
            modality=self.modality[index],
            index=index,
        )

"""The floor of reading contrast pairs: a bare loop over the work that no reading can do without.

    rows of words (and of an image before them) -> embeddings -> blocks 0 .. layer

Every distinct token runs once, in rows of equal length without padding, hooks or cache; every image
runs once through the tower. Which tokens and pixels they are does not matter to the time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peers.pairs import Pair
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Floor:
    """The work that no reading can do without.

    Attributes:
        layer: the last block that runs.
        batch: tokens that run together, at least one row.
        image: tokens of an image; 0 without images.
        edge: of an image, in pixels.
    """

    model: PreTrainedModel
    layer: int
    batch: int
    image: int = 0
    edge: int = 0

    def batches(self, pairs: Sequence[Pair]) -> list[tuple[int, int]]:
        """Rows and words of every batch: all words of all pairs, in rows of their mean length."""
        total = sum(pair.num_words for pair in pairs)
        width = math.ceil(total / len(pairs))
        full, rest = divmod(total, width)
        assert not (self.image and rest), "every image has a row of its own"
        most = max(1, self.batch // (width + self.image))
        rows = [(min(most, full - done), width) for done in range(0, full, most)]
        return rows + [(1, rest)] * (rest > 0)

    @torch.inference_mode()
    def __call__(self, pairs: Sequence[Pair]) -> None:
        for rows, width in self.batches(pairs):
            self.states(self.inputs(rows, width))

    def inputs(self, rows: int, width: int) -> tuple[Tensor, Tensor | None]:
        """Words, and pixels where there are images."""
        device, vocabulary = self.model.device, self.model.get_input_embeddings().num_embeddings
        ids = torch.arange(rows * width, device=device).view(rows, width) % vocabulary
        if not self.image:
            return ids, None
        size = (rows, 3, self.edge, self.edge)
        return ids, torch.ones(size, device=device, dtype=self.model.dtype)

    def states(self, given: tuple[Tensor, Tensor | None]) -> Tensor:
        """The state of every token behind the last block that runs."""
        ids, pixels = given
        decoder = self.model.get_decoder()
        h = decoder.embed_tokens(ids)
        if pixels is not None:
            features = self.model.get_image_features(pixel_values=pixels).pooler_output
            h = torch.cat([torch.stack(tuple(features)), h], dim=1)
        places = torch.arange(h.shape[1], device=h.device)[None]
        turned = decoder.rotary_emb(h, position_ids=places)
        for block in decoder.layers[: self.layer + 1]:
            h = block(h, attention_mask=None, position_embeddings=turned)  # causal without a mask
        return h

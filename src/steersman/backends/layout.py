"""Packs a padded batch of transformers into tokens, without a copy and without asking the device.

The batch is flattened. Padding goes to a slot behind the last request, whose strength is 0: a
request that nobody made (docs/adr/0003).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from steersman.core.errors import ModelError
from steersman.core.types import Modality, Site, Tokens

FAR = 1 << 30  # the offset of padding: no read and no bounded scope names it
BARE = 1 << 20  # the suffix of prompts without generation prompt: only reads before it match


@dataclass(frozen=True)
class Layout:
    """Which request and position each row and column of a padded batch is.

    Attributes:
        is_prompt: whether this pass begins a new sequence (its cache is empty).
        num_rows: rows of the batch; the slot of the padding has this number.
    """

    request: Int[Tensor, " t"]
    position: Int[Tensor, " t"]
    offset: Int[Tensor, " t"]
    modality: Int[Tensor, " t"]
    prompt_length: Int[Tensor, " b"]
    num_rows: int
    is_prompt: bool
    suffix: int | None

    def tokens(self, site: Site, h: Tensor) -> Tokens:
        """The states `(b, s, d)` at a site, packed."""
        return Tokens(
            site=site,
            h=h.reshape(-1, h.shape[-1]),
            request=self.request,
            position=self.position,
            offset=self.offset,
            modality=self.modality,
            suffix=self.suffix,
        )


def lay_out(
    inputs: Mapping[str, object],
    *,
    image_token: int | None,
    suffix: int | None,
    prompt_length: Int[Tensor, " b"] | None,
    forced: Int[Tensor, " b"] | None = None,
) -> Layout:
    """The layout of a forward pass with these keyword arguments.

    Args:
        suffix: as in `Tokens`; BARE for prompts rendered without their generation prompt.
        prompt_length: of each row; None when the pass is the whole prompt.
        forced: how many tokens at the end of each whole prompt begin the answer already.

    Raises:
        ModelError: the pass has neither ids nor embeddings, a mask that is not one row each, or
            continues a sequence whose prompt was not seen.
    """
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    shape = ids.shape if isinstance(ids, Tensor) else None
    if shape is None and isinstance(embeds, Tensor):
        shape = embeds.shape[:2]
    if shape is None:
        raise ModelError("Steering needs input_ids or inputs_embeds in the model's forward call.")
    rows, width = int(shape[0]), int(shape[1])
    device = ids.device if isinstance(ids, Tensor) else embeds.device  # type: ignore[union-attr]
    past = cached_tokens(inputs)
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones(rows, past + width, dtype=torch.long, device=device)
    if not isinstance(mask, Tensor) or mask.dim() != 2 or mask.shape[1] < past + width:
        raise ModelError(
            "Steering needs the attention mask as (batch, tokens), to know padding from tokens. "
            "Use a dynamic cache, or pass the two-dimensional mask."
        )
    mask = mask[:, : past + width].long()
    position = (mask.cumsum(1) - 1)[:, past:]
    real = mask[:, past:].bool()
    if prompt_length is None and past > 0:
        raise ModelError(
            f"Steering began after {past} tokens were in the cache already. Enter `steer` before "
            "the prompt runs, and begin with an empty cache."
        )
    if prompt_length is None:
        prompt_length = mask.sum(1)
        if forced is not None:
            beams = rows // len(forced)
            prompt_length = prompt_length - forced.to(device).repeat_interleave(beams)
    row = torch.arange(rows, device=device)[:, None].expand(rows, width)
    offset = position - prompt_length[:, None] - (BARE if suffix == BARE else 0)
    is_image = torch.zeros_like(real)
    if image_token is not None and isinstance(ids, Tensor):
        is_image = ids == image_token
    return Layout(
        request=torch.where(real, row, rows).reshape(-1),
        position=torch.where(real, position, 0).reshape(-1),
        offset=torch.where(real, offset, FAR).reshape(-1),
        modality=torch.where(is_image, int(Modality.IMAGE), int(Modality.TEXT)).reshape(-1),
        prompt_length=prompt_length,
        num_rows=rows,
        is_prompt=past == 0,
        suffix=suffix,
    )


def cached_tokens(inputs: Mapping[str, object]) -> int:
    """How many tokens the cache in a forward call holds already."""
    cache = inputs.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())  # type: ignore[attr-defined]


def follow_beams(inputs: Mapping[str, object], moved: Callable[[Tensor], None]) -> None:
    """Tells which row each row goes on from, whenever beams reorder the cache of these inputs."""
    cache = inputs.get("past_key_values")
    reorder = getattr(cache, "reorder_cache", None)
    if reorder is None:
        return

    def both(beam_idx: Tensor) -> None:
        reorder(beam_idx)
        moved(beam_idx)

    cache.reorder_cache = both  # type: ignore[union-attr]  # of this one sequence's cache

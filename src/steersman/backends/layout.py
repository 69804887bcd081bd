"""Packs a padded batch of transformers into tokens, without asking the device anything.

The batch is flattened. Padding goes to a slot behind the last request, whose strength is 0: a
request that nobody made (docs/adr/0003).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from steersman.backends.caches import CACHES
from steersman.core.errors import ModelError
from steersman.core.types import Modality, Scope, Site, Span, Tokens

FAR = 1 << 30  # the offset of padding: no read and no bounded scope names it
BARE = 1 << 20  # the suffix of prompts without generation prompt: only reads before it match


@dataclass(frozen=True)
class Layout:
    """Which request and position each token of a forward pass is.

    Attributes:
        shape: rows and columns of the batch.
        is_prompt: whether this pass begins new sequences.
        num_generated: how many generated tokens a row of this pass has at most, None if unknown.
        fresh: how many last columns no pass before has run; the others are only repeated.
        index: of each token in the flattened batch, where only some are looked at.
    """

    request: Int[Tensor, " t"]
    position: Int[Tensor, " t"]
    offset: Int[Tensor, " t"]
    modality: Int[Tensor, " t"]
    spans: Mapping[Span, Bool[Tensor, " t"]]
    shape: tuple[int, int]
    suffix: int | None
    is_prompt: bool = False
    num_generated: int | None = None
    fresh: int | None = None
    index: Int[Tensor, " t"] | None = None

    @property
    def all_generated(self) -> bool:
        """Whether every token is known to be generated text or padding."""
        return not self.is_prompt and self.num_generated == self.shape[1]

    def tokens(self, site: Site, h: Tensor) -> Tokens:
        """The states at a site `(b, s, d)`, packed."""
        flat = h.reshape(-1, h.shape[-1])
        return Tokens(
            site=site,
            h=flat if self.index is None else flat[self.index],
            request=self.request,
            position=self.position,
            offset=self.offset,
            modality=self.modality,
            suffix=self.suffix,
            spans=self.spans,
        )

    def put(self, h: Tensor, changed: Tensor) -> Tensor:
        """`h` with the tokens of this layout changed; `h` itself stays as it is."""
        if self.index is None:
            return changed.reshape(h.shape)
        flat = h.reshape(-1, h.shape[-1])
        return flat.index_copy(0, self.index, changed).reshape(h.shape)

    def behind(self, start: int | None) -> "Layout":
        """Only as many last tokens of each row as have an offset of `start` or more."""
        if start is None or self.num_generated is None or self.index is not None:
            return self
        (rows, width), num = self.shape, self.num_generated - start
        if num >= width:
            return self
        if num <= 0:
            return self._only(self.request.new_zeros(0))
        order = torch.where(self.offset == FAR, -FAR, self.offset).reshape(rows, width)
        column = order.topk(num, dim=1).indices
        row = torch.arange(rows, device=column.device)[:, None]
        return self._only((row * width + column).reshape(-1))

    def _only(self, index: Tensor) -> "Layout":
        return replace(
            self,
            request=self.request[index],
            position=self.position[index],
            offset=self.offset[index],
            modality=self.modality[index],
            spans={span: inside[index] for span, inside in self.spans.items()},
            index=index,
        )


@dataclass(frozen=True)
class Place:
    """Where a batch of sequences stands after some passes.

    Attributes:
        columns: columns that went through the model.
        seen: tokens of each row among them, padding left out.
        prompt_length: of each row.
        open: by span and row, whether the last token was inside, for each column of the last pass.
    """

    columns: int
    seen: Int[Tensor, " b"]
    prompt_length: Int[Tensor, " b"]
    open: Mapping[Span, Bool[Tensor, "b s"]]

    def back_to(self, columns: int) -> "Place":
        """The same sequences with fewer columns, after candidates were turned down.

        Raises:
            ModelError: they were cut further than the last pass reaches, and spans are followed.
        """
        fewer = self.columns - columns
        if fewer == 0:
            return self
        kept = {span: inside[:, : inside.shape[1] - fewer] for span, inside in self.open.items()}
        if any(inside.shape[1] == 0 for inside in kept.values()):
            raise ModelError(
                f"The cache was cut by {fewer} tokens, further than the last pass reaches, and a "
                "scope leaves out spans that began there. Begin the sequence again."
            )
        return replace(self, columns=columns, seen=self.seen - fewer, open=kept)

    def reorder(self, rows: Int[Tensor, " b"]) -> "Place":
        """Row i goes on where row `rows[i]` stood."""
        kept = {span: inside[rows] for span, inside in self.open.items()}
        return replace(
            self, seen=self.seen[rows], prompt_length=self.prompt_length[rows], open=kept
        )


@dataclass(frozen=True)
class Rules:
    """What laying out needs to know besides the pass itself.

    Attributes:
        image_token: id of the tokens that stand for image patches, if there is one.
        suffix: as in `Tokens`; BARE for prompts rendered without their generation prompt.
        spans: those that some scope leaves out.
    """

    image_token: int | None
    suffix: int | None
    spans: tuple[Span, ...] = ()


def size(inputs: Mapping[str, object]) -> tuple[int, int, torch.device]:
    """Rows, columns and device of a forward pass with these keyword arguments.

    Raises:
        ModelError: it has neither ids nor embeddings.
    """
    for name in ("input_ids", "inputs_embeds"):
        given = inputs.get(name)
        if isinstance(given, Tensor):
            return int(given.shape[0]), int(given.shape[1]), given.device
    raise ModelError("Steering needs input_ids or inputs_embeds in the model's forward call.")


def lay_out(
    inputs: Mapping[str, object],
    rules: Rules,
    *,
    place: Place | None = None,
    prompt_length: Int[Tensor, " b"] | None = None,
    num_generated: int | None = 0,
) -> tuple[Layout, Place]:
    """The layout of a forward pass with these keyword arguments, and where it ends.

    Args:
        place: where the sequences stood; None for new ones.
        prompt_length: of the rows of new sequences; None: all but `num_generated` tokens.
        num_generated: how many generated tokens a row has at most in this pass; None if unknown.

    Raises:
        ModelError: the pass has neither ids nor embeddings, or a mask that cannot be read.
    """
    rows, width, device = size(inputs)
    past = 0 if place is None else place.columns
    real = _real(inputs.get("attention_mask"), rows, width, past=past)
    if real is None:
        real = torch.ones(rows, width, dtype=torch.bool, device=device)
    real = real.to(device)
    before = torch.zeros(rows, 1, dtype=torch.long, device=device)
    if place is not None:
        before, prompt_length = place.seen[:, None], place.prompt_length
    position = before + real.long().cumsum(1) - 1
    seen = position[:, -1] + 1
    if prompt_length is None:
        prompt_length = seen - (num_generated or 0)
    offset = position - prompt_length[:, None] - (BARE if rules.suffix == BARE else 0)
    ids = inputs.get("input_ids")
    is_image = torch.zeros_like(real)
    if rules.image_token is not None and isinstance(ids, Tensor):
        is_image = ids == rules.image_token
    inside, open_ = _spans(rules, ids, offset, real, place)
    row = torch.arange(rows, device=device)[:, None].expand(rows, width)
    layout = Layout(
        request=torch.where(real, row, rows).reshape(-1),
        position=torch.where(real, position, 0).reshape(-1),
        offset=torch.where(real, offset, FAR).reshape(-1),
        modality=torch.where(is_image, int(Modality.IMAGE), int(Modality.TEXT)).reshape(-1),
        spans={span: marked.reshape(-1) for span, marked in inside.items()},
        shape=(rows, width),
        suffix=rules.suffix,
        is_prompt=place is None,
        num_generated=num_generated,
    )
    return layout, Place(past + width, seen, prompt_length, open_)


def _real(mask: object, rows: int, width: int, *, past: int) -> Bool[Tensor, "b s"] | None:
    """Which columns of this pass hold tokens and no padding; None if all do.

    A mask with four dimensions says which token may look at which: a token that may look at
    itself is real.
    """
    if isinstance(mask, Mapping):  # one for each kind of attention layer
        given = [m for m in mask.values() if isinstance(m, Tensor)]
        given.sort(key=lambda m: (m.dim(), -m.shape[-1]))
        mask = given[0] if given else None
    if mask is None:
        return None
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= past + width:
        return mask[:, past : past + width].bool()
    if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[2] == width:
        first = min(past, mask.shape[3] - width)  # a sliding window keeps only the last tokens
        own = mask[:, 0, :, first : first + width].diagonal(dim1=1, dim2=2)
        allowed = own if own.dtype == torch.bool else own == 0
        return allowed.expand(rows, width)
    shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
    raise ModelError(
        f"The attention mask is {shape}, and steering needs it as (batch, {past + width}) or "
        f"(batch, 1, {width}, cache), to know padding from tokens. Pass the two-dimensional mask "
        "of the whole sequence."
    )


def _spans(
    rules: Rules, ids: object, offset: Tensor, real: Tensor, place: Place | None
) -> tuple[dict[Span, Tensor], dict[Span, Tensor]]:
    """By span, which tokens are inside, and which leave it open behind them."""
    if not rules.spans:
        return {}, {}
    if not isinstance(ids, Tensor):
        raise ModelError(
            "A scope leaves out spans between marker tokens, and this pass has embeddings without "
            "ids. Give input_ids."
        )
    counts = real & (offset >= -(rules.suffix or 0)) & (offset < BARE)
    column = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    inside: dict[Span, Tensor] = {}
    left_open: dict[Span, Tensor] = {}
    for span in rules.spans:
        opened = torch.where(counts & (ids == span.start), column, 0).cummax(1).values
        closed = torch.where(counts & (ids == span.end), column, 0).cummax(1).values
        carried = torch.zeros_like(real[:, :1]) if place is None else place.open[span][:, -1:]
        now = torch.where((opened == 0) & (closed == 0), carried, opened > closed)
        before = torch.cat([carried, now[:, :-1]], 1)
        ends = (ids == span.end) & before
        inside[span], left_open[span] = (now | ends) & real, now
    return inside, left_open


def without_cache(inputs: Mapping[str, object]) -> dict[str, object]:
    """The same forward pass without its cache; a mask made for one of fixed size is cut."""
    kept = {k: v for k, v in inputs.items() if k not in (*CACHES, "use_cache")}
    if "attention_mask" in kept:
        kept["attention_mask"] = _cut(kept["attention_mask"], size(inputs)[1])
    return kept


def _cut(mask: object, width: int) -> object:
    if isinstance(mask, Mapping):
        return {kind: _cut(part, width) for kind, part in mask.items()}
    if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[2] == width < mask.shape[3]:
        return mask[..., :width]
    return mask


def spans_of(scopes: Sequence[Scope]) -> tuple[Span, ...]:
    """Every span that one of the scopes leaves out, once."""
    return tuple(dict.fromkeys(span for scope in scopes for span in scope.outside))

"""Packs a padded batch of transformers into tokens, without asking the device anything.

The batch is flattened. Padding goes to a slot behind the last request, whose strength is 0: a
request that nobody made (docs/adr/0003).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from steersman.backends.caches import CACHES
from steersman.core.errors import ModelError
from steersman.core.types import Modality, Scope, Site, Span, Tokens

FAR = 1 << 30  # the offset of padding: no read and no bounded scope names it
BARE = 1 << 20  # the suffix of prompts without generation prompt: only reads before it match


@dataclass(frozen=True)
class Layout:
    """Which request and position each token of a forward pass is, worked out when asked.

    Attributes:
        real: which columns hold tokens and no padding.
        before: tokens of each row in earlier passes.
        image: which tokens stand for image patches; None if none can.
        inside: by span, which tokens are inside it.
        suffix: as in `Tokens`; BARE for prompts rendered without their generation prompt.
        is_prompt: whether this pass begins new sequences.
        num_generated: how many generated tokens a row of this pass has at most, None if unknown.
        fresh: how many last columns no pass before has run; the others are only repeated.
        tentative: whether the last columns are candidates, which may leave the cache again.
        index: of each token in the flattened batch, where only some are looked at.
    """

    real: Bool[Tensor, "b s"]
    before: Int[Tensor, " b"]
    prompt_length: Int[Tensor, " b"]
    image: Bool[Tensor, "b s"] | None
    inside: Mapping[Span, Bool[Tensor, "b s"]]
    suffix: int | None
    is_prompt: bool = False
    num_generated: int | None = None
    fresh: int | None = None
    tentative: bool = False
    index: Int[Tensor, " t"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the batch."""
        return (self.real.shape[0], self.real.shape[1])

    @property
    def device(self) -> torch.device:
        return self.real.device

    @property
    def all_generated(self) -> bool:
        """Whether every token is known to be generated or padding."""
        return not self.is_prompt and self.num_generated == self.shape[1]

    @cached_property
    def request(self) -> Int[Tensor, " t"]:
        """The slot of each token; padding has the one behind the last row."""
        rows = self.shape[0]
        row = torch.arange(rows, device=self.device)[:, None]
        return self._flat(torch.where(self.real, row, rows))

    @cached_property
    def on(self) -> Float[Tensor, " b"]:
        """1 for rows whose first column is a token, 0 for padding."""
        return self.real[:, 0].float()

    @cached_property
    def _position(self) -> Int[Tensor, "b s"]:
        return self.before[:, None] + self.real.long().cumsum(1) - 1

    @cached_property
    def _offset(self) -> Int[Tensor, "b s"]:
        offset = self._position - self.prompt_length[:, None]
        return torch.where(self.real, offset - (BARE if self.suffix == BARE else 0), FAR)

    def tokens(self, site: Site, h: Tensor) -> Tokens:
        """The states at a site `(b, s, d)`, packed."""
        text = torch.full_like(self.real, int(Modality.TEXT), dtype=torch.long)
        seen = text if self.image is None else text.masked_fill(self.image, int(Modality.IMAGE))
        return Tokens(
            site=site,
            h=self._flat(h, h.shape[-1]),
            request=self.request,
            position=self._flat(torch.where(self.real, self._position, 0)),
            offset=self._flat(self._offset),
            modality=self._flat(seen),
            suffix=self.suffix,
            spans={span: self._flat(inside) for span, inside in self.inside.items()},
        )

    def _flat(self, values: Tensor, *width: int) -> Tensor:
        flat = values.reshape(-1, *width)
        return flat if self.index is None else flat[self.index]

    def put(self, h: Tensor, changed: Tensor) -> Tensor:
        """`h` with the tokens of this layout changed; `h` itself stays as it is."""
        return put_back(h, self.index, changed)

    def behind(self, start: int | None) -> "Layout":
        """Only as many last tokens of each row as have an offset of `start` or more."""
        if start is None or self.num_generated is None or self.index is not None:
            return self
        (rows, width), num = self.shape, self.num_generated - start
        if num >= width:
            return self
        if num <= 0:
            return replace(self, index=torch.zeros(0, dtype=torch.long, device=self.device))
        column = torch.where(self.real, self._offset, -FAR).topk(num, dim=1).indices
        row = torch.arange(rows, device=self.device)[:, None]
        return replace(self, index=(row * width + column).reshape(-1))

    def answer_begins(self, suffix: int | None) -> Bool[Tensor, "b s"]:
        """Which tokens the generation prompt or the answer has."""
        return self.real & (self._offset >= -(suffix or 0)) & (self._offset < BARE)

    @property
    def is_empty(self) -> bool:
        """Whether no token is looked at."""
        return self.index is not None and len(self.index) == 0


@dataclass(frozen=True)
class Place:
    """Where a batch of sequences stands after some passes.

    Attributes:
        columns: columns that went through the model.
        seen: tokens of each row among them, padding left out.
        prompt_length: of each row.
        going: which rows have not ended; None where that is not followed.
        open: by span and row, whether the last token was inside, for each column of the last pass.
    """

    columns: int
    seen: Int[Tensor, " b"]
    prompt_length: Int[Tensor, " b"]
    going: Bool[Tensor, " b"] | None
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
        going = None if self.going is None else self.going[rows]
        return Place(self.columns, self.seen[rows], self.prompt_length[rows], going, kept)


@dataclass(frozen=True)
class Rules:
    """What laying out needs to know besides the pass itself.

    Attributes:
        image_token: id of the tokens that stand for image patches, if there is one.
        suffix: as in `Tokens`; BARE for prompts rendered without their generation prompt.
        spans: those that some scope leaves out.
        ends: token ids that end an answer: what comes behind them is padding.
        going: tells which rows have not ended, instead of `ends`.
    """

    image_token: int | None
    suffix: int | None
    spans: tuple[Span, ...] = ()
    ends: Int[Tensor, " e"] | None = None
    going: Callable[[], Bool[Tensor, " b"]] | None = None

    def goes_on(self, place: "Place", ids: object) -> Bool[Tensor, " b"] | None:
        """Which rows have not ended before a pass of these ids; None where nobody can tell."""
        if self.going is not None:
            return self.going()
        if self.ends is None or not isinstance(ids, Tensor):
            return None
        going = ~torch.isin(ids[:, -1], self.ends)
        return going if place.going is None else place.going & going


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


def last_wanted(inputs: Mapping[str, object]) -> int:
    """Of how many last tokens the logits are asked for; 0 for all, or where a tensor tells."""
    keep = inputs.get("logits_to_keep")
    return keep if isinstance(keep, int) else 0


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
    ids = inputs.get("input_ids")
    real = _real(inputs.get("attention_mask"), rows, width, past=past)
    if real is None:
        real = torch.ones(rows, width, dtype=torch.bool, device=device)
    real = real.to(device)
    going = None if place is None else rules.goes_on(place, ids)
    if going is not None:
        real = real & going[:, None]
    before = torch.zeros(rows, dtype=torch.long, device=device) if place is None else place.seen
    seen = before + (real[:, 0] if width == 1 else real.sum(1))
    if place is not None:
        prompt_length = place.prompt_length
    elif prompt_length is None:
        prompt_length = seen - (num_generated or 0)
    image = None
    if rules.image_token is not None and isinstance(ids, Tensor):
        image = ids.eq(rules.image_token)
    layout = Layout(
        real=real,
        before=before,
        prompt_length=prompt_length,
        image=image,
        inside={},
        suffix=rules.suffix,
        is_prompt=place is None,
        num_generated=num_generated,
    )
    open_: Mapping[Span, Tensor] = {}
    if rules.spans:
        inside, open_ = _spans(rules, ids, layout, place)
        layout = replace(layout, inside=inside)
    return layout, Place(past + width, seen, prompt_length, going, open_)


def repeated(
    layout: Layout, place: Place, going: Bool[Tensor, " b"] | None
) -> tuple[Layout, Place]:
    """A pass that runs every column again; the last one is new, in rows that go on."""
    if going is not None:
        last = layout.real[:, -1:] & going[:, None]
        layout = replace(layout, real=torch.cat([layout.real[:, :-1], last], 1))
    return replace(layout, fresh=1), replace(place, going=going)


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
    rules: Rules, ids: object, layout: Layout, place: Place | None
) -> tuple[dict[Span, Tensor], dict[Span, Tensor]]:
    """By span, which tokens are inside, and which leave it open behind them."""
    if not isinstance(ids, Tensor):
        raise ModelError(
            "A scope leaves out spans between marker tokens, and this pass has embeddings without "
            "ids. Give input_ids."
        )
    real, counts = layout.real, layout.answer_begins(rules.suffix)
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


def put_back(h: Tensor, index: Int[Tensor, " t"] | None, changed: Tensor) -> Tensor:
    """`h` with these tokens changed, all of them where there is no index."""
    if index is None:
        return changed.reshape(h.shape)
    flat = h.reshape(-1, h.shape[-1])
    return flat.index_copy(0, index, changed).reshape(h.shape)


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


def first_offset(scopes: Sequence[Scope]) -> int | None:
    """The first token that one of the scopes holds; None if from the beginning."""
    starts = [scope.start for scope in scopes]
    return None if None in starts else min(start for start in starts if start is not None)


def spans_of(scopes: Sequence[Scope]) -> tuple[Span, ...]:
    """Every span that one of the scopes leaves out, once."""
    return tuple(dict.fromkeys(span for scope in scopes for span in scope.outside))

"""Continuous batching of transformers (`generate_batch`): whose each token is, and how far it is.

A pass packs pieces of several requests into one row and names none of them. The paged cache does:
the block that a piece is written to belongs to one request. Prompts may come in pieces, answers may
be thrown out of the cache and run again behind their prompt.

Every pass reads its small index tensors on the host: free on a CPU, one synchronisation on a GPU.
Each request keeps its slot to the end of the `with`, for its trace.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from steersman.backends.edge import Edge
from steersman.backends.layout import FAR
from steersman.backends.packed import Packed
from steersman.backends.tally import Row
from steersman.backends.walk import Ledger, Plan, Walk
from steersman.core.errors import ModelError, RecipeError
from steersman.core.requests import SteererTrace
from steersman.core.steerer import Policy
from steersman.core.types import Modality

SLOTS = 16  # to begin with; doubled as requests come
CURE = "Use model.generate([...]), which runs every prompt whole."


class Allocator(Protocol):
    """What a paged cache knows of the blocks of one kind of attention."""

    tokens_per_page: int
    block_physical_stride: int
    block_table: dict[str, list[int]]


@runtime_checkable
class PagedCache(Protocol):
    """What must be known of transformers' paged cache."""

    cache_allocators: dict[str, Allocator]
    use_prefix_sharing: bool
    max_batch_tokens: int


@dataclass(frozen=True)
class Piece:
    """Tokens of one request that stand side by side in a pass.

    Attributes:
        start: position of the first of them.
        last: whether the next token is predicted behind them: no token of the prompt is left.
    """

    request: str
    ids: list[int]
    start: int
    last: bool

    @property
    def end(self) -> int:
        return self.start + len(self.ids)

    @property
    def is_warmup(self) -> bool:
        """Whether transformers made it up, to run the model once before any request comes."""
        return self.request.startswith("__warmup_")


@dataclass
class Course:
    """How far one request has come.

    Attributes:
        num_run: positions that went through the model.
        prompt: ids of its prompt, as far as it came.
        prompt_tokens: how many it has; None until the prompt has ended.
    """

    slot: int
    num_run: int = 0
    prompt: list[int] = field(default_factory=list[int])
    prompt_tokens: int | None = None

    def advance(self, piece: Piece) -> None:
        """Goes on with a piece, which may run tokens again that left the cache.

        Raises:
            ModelError: the piece does not go on with this request.
        """
        if piece.start > self.num_run:
            raise ModelError(
                f"{piece.start - self.num_run} tokens of the request {piece.request!r} ran before "
                "steering began or outside of it. Enter `steer` before the first request comes, "
                "and leave it behind the last one."
            )
        limit = piece.end if self.prompt_tokens is None else self.prompt_tokens
        told = piece.ids[: max(0, limit - piece.start)]
        before = self.prompt[piece.start : piece.start + len(told)]
        self.prompt += told[len(before) :]
        goes_on = told[: len(before)] == before
        if self.prompt_tokens is None:
            self.prompt_tokens = piece.end if piece.last else None
        elif piece.last:
            goes_on &= self.prompt_tokens <= piece.end <= self.num_run + 1
        else:
            goes_on &= piece.end <= self.num_run
        if not goes_on:
            raise ModelError(
                f"Two requests have the id {piece.request!r}, and steering cannot tell them "
                "apart. Give every request an id of its own, or none."
            )
        self.num_run = max(self.num_run, piece.end)


class Courses:
    """The requests of one paged cache, in the order they began.

    Args:
        walk: with `SLOTS` slots. Nobody has the first: it stays as new ones begin.
    """

    def __init__(self, walk: Walk, plan: Plan) -> None:
        self.walk, self._plan = walk, plan
        self._slots = SLOTS
        self._known: dict[str, Course] = {}

    def follow(self, pieces: Sequence[Piece], *, rereads: bool) -> tuple[list[int], list[int]]:
        """Slot and offset of each token of the pieces.

        Args:
            rereads: whether the policy looks again while the answer is written.
        """
        found = [None if piece.is_warmup else self._course(piece) for piece in pieces]
        self._make_room(
            [c.slot for p, c in zip(pieces, found, strict=True) if c and c.num_run and not p.start]
        )
        slots: list[int] = []
        offsets: list[int] = []
        for piece, course in zip(pieces, found, strict=True):
            num = len(piece.ids)
            if course is None:
                slots += [self._slots] * num
                offsets += [-FAR] * num
                continue
            course.advance(piece)
            prompt_tokens = FAR if course.prompt_tokens is None else course.prompt_tokens
            slots += [course.slot] * num
            offsets += range(piece.start - prompt_tokens, piece.end - prompt_tokens)
            if rereads and num > 1 and offsets[-1] >= 0:
                raise ModelError(
                    f"The request {piece.request!r} lost its place in the cache and runs its "
                    "answer again in one pass, but the policy looks again while the answer is "
                    "written. Give the cache room, as in "
                    "ContinuousBatchingConfig(num_blocks=...), or use model.generate([...])."
                )
        return slots, offsets

    def _course(self, piece: Piece) -> Course:
        course = self._known.get(piece.request)
        if course is not None:
            return course
        course = self._known[piece.request] = Course(len(self._known) + 1)
        name, mark, _ = piece.request.rpartition("__child#")  # of num_return_sequences
        origin = self._known.get(name)
        if mark and origin is not None and piece.start:
            if origin.prompt_tokens not in (None, piece.end):
                raise ModelError(
                    f"It cannot be told where the prompt of {name!r} ends: it has "
                    f"{piece.end} tokens, and several answers were asked for. Ask for one "
                    "(num_return_sequences=1)."
                )
            course.num_run = min(piece.start, origin.num_run)
            course.prompt = origin.prompt[: course.num_run]
        return course

    def _make_room(self, again: Sequence[int]) -> None:
        """Slots for all; those in `again` are as new, for requests that run from their start."""
        num = self._slots
        while num <= len(self._known):
            num *= 2
        if num == self._slots and not again:
            return
        slots = [*range(self._slots), *[0] * (num - self._slots)]
        for slot in again:
            slots[slot] = 0
        self.walk.take(torch.tensor(slots, device=self.walk.tally.device))
        self._slots = num

    def request_ids(self) -> list[str]:
        return list(self._known)

    def traces(self, lengths: Sequence[int] | None) -> list[dict[str, SteererTrace]]:
        """What was done to each request; nothing to one that was cancelled within its prompt.

        Raises:
            NotSteeredError: steering was asked for and could not act.
        """
        return self.ledger(lengths).traces()

    def ledger(self, lengths: Sequence[int] | None = None) -> Ledger:
        """What the traces are made of, without the state of the requests."""
        rows: list[Row] = []
        for i, course in enumerate(self._known.values()):
            if course.prompt_tokens is None:
                rows.append(Row(None, 0.0, course.slot))
                continue
            length = course.num_run - course.prompt_tokens + 1 if lengths is None else lengths[i]
            plan = self._plan
            rows.append(Row(plan.policy, plan.strength, course.slot, length, plan.shadow))
        return Ledger(self.walk.tally, self.walk.originals, rows)


class Paged:
    """What a run needs to steer continuous batching.

    Args:
        plans: one, for all requests.
        prompt_tokens: None, since no request is known before it comes.
    """

    def __init__(
        self, edge: Edge, plans: Sequence[Plan], prompt_tokens: Sequence[int] | None
    ) -> None:
        self._edge, self._plans, self._prompt_tokens = edge, plans, prompt_tokens
        self._rereads = any(read.every for p in plans if p.policy for read in p.policy.reads)
        self._courses: WeakKeyDictionary[PagedCache, Courses] = WeakKeyDictionary()

    def follow(
        self, inputs: Mapping[str, object], begin: Callable[[torch.device, int], Walk]
    ) -> tuple[Courses, Packed]:
        """The requests of a pass with these keyword arguments, and its layout.

        Args:
            begin: makes the state of so many slots.

        Raises:
            RecipeError: not every request is to be steered alike.
            ModelError: the pass, its cache or the policy cannot be followed.
        """
        cache = inputs.get("cache")
        if not isinstance(cache, PagedCache):
            raise ModelError(
                "This pass packs several sequences into one row (cu_seq_lens_q), which steering "
                "follows in generate_batch of transformers 5.19 only. Give one sequence a row, "
                "or use model.generate([...])."
            )
        ids = _tensor(inputs, "input_ids")
        if ids.is_cuda and torch.cuda.is_current_stream_capturing():
            raise ModelError(
                "A CUDA graph is being recorded, and steering cannot act in it. Write "
                "ContinuousBatchingConfig(use_cuda_graph=False)."
            )
        courses = self._courses.get(cache)
        if courses is None:
            _check_plans(self._plans, self._prompt_tokens)
            _check_cache(cache)
            for plan in self._plans:
                if plan.policy is not None:
                    _check_policy(plan.policy, self._edge.suffix)
            courses = Courses(begin(ids.device, SLOTS), self._plans[0])
            self._courses[cache] = courses
        slots, offsets = courses.follow(_pieces(inputs, cache), rereads=self._rereads)
        left = ids.numel() - len(slots)  # padding
        nobody = courses.walk.tally.num_slots - 1
        slots, offsets = [*slots, *[nobody] * left], [*offsets, *[-FAR] * left]
        request, offset = torch.tensor([slots, offsets], device=ids.device)
        modality = torch.full_like(request, int(Modality.TEXT))
        if self._edge.image_token is not None:
            is_image = ids[0] == self._edge.image_token
            modality = modality.masked_fill(is_image, int(Modality.IMAGE))
        position = _tensor(inputs, "position_ids").reshape(-1).long()
        return courses, Packed(request, position, offset, modality, offsets, self._edge.suffix)


def refuse_recorded(root: nn.Module) -> None:
    """Refuses a model whose batches replay CUDA graphs that were recorded before.

    Raises:
        ModelError: it keeps such a manager: a replay runs no hooks, and nobody would notice.
    """
    kept = getattr(root, "_cached_continuous_batching_manager", None)
    if kept is not None and any(kept.continuous_batching_config.cuda_graph_booleans):
        raise ModelError(
            "generate_batch kept a manager (persistent_manager=True) that replays CUDA graphs, "
            "which steering cannot act in. Call destroy_cached_continuous_batching_manager() on "
            "the model first, and write ContinuousBatchingConfig(use_cuda_graph=False)."
        )


def _tensor(inputs: Mapping[str, object], name: str) -> Tensor:
    given = inputs[name]
    assert isinstance(given, Tensor), name
    return given


def _pieces(inputs: Mapping[str, object], cache: PagedCache) -> list[Piece]:
    """The pieces of a pass, in the order of its tokens."""
    bounds = _tensor(inputs, "cu_seq_lens_q")
    kind = next(iter(cache.cache_allocators.values()))
    if inputs.get("block_table") is not None:  # every piece is one token
        place = _tensor(inputs, "block_table")[0, :, 0]
        stride = kind.block_physical_stride // kind.tokens_per_page
    else:
        written = inputs["write_index"]
        assert isinstance(written, list)
        to: Tensor = written[0]  # pyright: ignore[reportUnknownVariableType]  # of that kind
        place, stride = to[(bounds[1:] - 1).clamp(min=0)], kind.block_physical_stride
    ends, ids, positions, asked, places = _on_host(
        bounds,
        *(_tensor(inputs, name) for name in ("input_ids", "position_ids", "logits_indices")),
        place,
    )
    owner = {block: name for name, blocks in kind.block_table.items() for block in blocks}
    # Behind the real ones stand zeros; a real zero comes first.
    predicted = {column for i, column in enumerate(asked) if column or not i}
    return [
        Piece(owner[at // stride], ids[first:end], positions[first], (end - 1) in predicted)
        for first, end, at in zip(ends[:-1], ends[1:], places, strict=False)
        if end > first
    ]


def _on_host(*tensors: Tensor) -> list[list[int]]:
    """Their values, in one transfer."""
    flat = [tensor.reshape(-1).long() for tensor in tensors]
    values = torch.cat(flat).tolist()
    ends = [sum(len(t) for t in flat[: i + 1]) for i in range(len(flat))]
    return [values[end - len(t) : end] for t, end in zip(flat, ends, strict=True)]


def _check_plans(plans: Sequence[Plan], prompt_tokens: Sequence[int] | None) -> None:
    if len(plans) > 1 or prompt_tokens is not None:
        what = f"{len(plans)} rows" if prompt_tokens is None else f"prompt_tokens={prompt_tokens}"
        raise RecipeError(
            f"Steering was set up for {what}, and generate_batch does not say which request is "
            "which. Give one policy and one strength for all, or use model.generate([...]), where "
            "each request has its own."
        )


def _check_cache(cache: PagedCache) -> None:
    if cache.use_prefix_sharing:
        raise ModelError(
            "Requests share the keys of equal beginnings, so one would read what another was "
            "steered to. Write generate_batch(..., continuous_batching_config="
            "ContinuousBatchingConfig(allow_block_sharing=False))."
        )
    if cache.max_batch_tokens < 2:
        raise ModelError(
            "A pass holds one token (max_batch_tokens=1), so it cannot be told where a prompt "
            "ends. Give ContinuousBatchingConfig a max_batch_tokens of 2 or more."
        )


def _check_policy(policy: Policy, suffix: int | None) -> None:
    """Refuses what prompts in pieces, whose end is not known before, cannot be given."""
    probed = policy.probed(suffix, chunked=True)
    for name, steerer in policy.steerers.items():
        scope = steerer.scope
        early = [bound for bound in (scope.start, scope.stop) if bound is not None and bound < -1]
        reads = [read for read in steerer.reads if read.effective_offset(suffix) != -1]
        if scope.outside:
            why = "leaves out spans, which are not followed there"
        elif early:
            why = f"has a scope that begins or ends before the last prompt token ({scope})"
        elif reads:
            why = f"reads before the last prompt token ({reads[0]})"
        elif name in probed:
            why = "must read the end of the prompt before the first token is written"
        else:
            continue
        raise ModelError(
            f"The steerer {name!r} {why}, and in continuous batching (generate_batch) a prompt "
            f"comes in pieces. {CURE}"
        )

"""Runs policies inside a transformers model with forward hooks, for the time of one `with`.

All that changes lives in the `Run` of that `with`: nothing is stored on the model, its modules or
the parts. Hooks return new tensors and are removed by handle.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steersman.backends.caches import cache_in, follow_beams, let_go
from steersman.backends.desk import Desk
from steersman.backends.due import due_before, due_now
from steersman.backends.edge import UNTOLD, Edge, Given, Stop, refuse_packed
from steersman.backends.entered import (
    Threads,
    anything,
    applies,
    enter,
    leave,
    only,
    refuse_idle,
)
from steersman.backends.layout import (
    BARE,
    Layout,
    Rules,
    first_offset,
    last_wanted,
    lay_out,
    repeated,
    size,
    spans_of,
    without_cache,
)
from steersman.backends.paged import Courses, Paged
from steersman.backends.tally import Outcome
from steersman.backends.taps import attach
from steersman.backends.uncompiled import uncompiled
from steersman.backends.walk import Ledger, Plan, Walk
from steersman.core.errors import ModelError, RecipeError
from steersman.core.requests import SteererTrace
from steersman.core.steerer import Policy
from steersman.core.types import Site


class Run:
    """Policies at work, from entering the `with` to leaving it.

    Args:
        given: what is known of the prompts.
        threads: "own" steers calls in the context that enters; "all" also those of threads that
            have entered nothing themselves.
    """

    def __init__(
        self,
        edge: Edge,
        plans: Sequence[Plan],
        *,
        given: Given = UNTOLD,
        threads: Threads = "own",
    ) -> None:
        self.edge, self.plans, self.given = edge, list(plans), given
        self.threads: Threads = threads
        distinct = {id(p.policy): p.policy for p in plans if p.policy is not None and p.strength}
        self.policies = list(distinct.values())
        steerers = [s for policy in self.policies for s in policy.steerers.values()]
        self.writes = {site for s in steerers for site in s.sites}
        self.rereads = any(read.every for s in steerers for read in s.reads)
        self.spans = spans_of([s.scope for s in steerers])
        self.modalities = {s.scope.modality for s in steerers}
        self.probed = [p.probed(edge.suffix, chunked=False) for p in self.policies]
        self.starts = {
            site: first_offset([s.scope for s in steerers if site in s.sites])
            for site in self.writes
        }
        self._decoder = edge.root.config.get_text_config(decoder=True)
        self._depth = self._decoder.num_hidden_layers
        self._desk = Desk()
        self._on_device: dict[torch.device, list[Policy]] = {}
        self._paged = Paged(edge, self.plans, given.prompt_tokens)
        self._past: list[Ledger] = []
        self._last: Walk | Courses | None = None
        self._failed: Exception | None = None
        self._elsewhere = 0
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "Run":
        enter(self, everywhere=self.edge.root if self.policies and self.threads == "all" else None)
        if self.policies:  # else nothing to do: the model runs untouched
            reads = {r.site for policy in self.policies for r in policy.reads}
            root = self.edge.root
            try:
                self._handles += [
                    root.register_forward_pre_hook(self._on_pass, with_kwargs=True),
                    root.register_forward_hook(self._on_passed, always_call=True),
                ]
                for site in sorted(self.writes | reads, key=lambda s: s.depth):
                    self._handles.append(attach(self.edge.blocks, site, self._on_site(site)))
                uncompiled.enter()
            except Exception:
                leave(self)
                self._remove()
                raise
        return self

    def __exit__(self, *exception: object) -> None:
        leave(self)
        if self._handles:
            uncompiled.leave()
        self._remove()
        if self._failed is not None and self._failed is not exception[1]:
            raise self._failed  # the thread that met it told nobody

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        let_go(self)

    def traces(self, lengths: Sequence[int] | None = None) -> list[dict[str, SteererTrace]]:
        """What was done to each plan's row, by steerer; a plan with beams shows its first.

        Args:
            lengths: tokens of each answer, where they are known.

        Raises:
            NotSteeredError: steering was asked for and could not act.
        """
        return self._last.traces(lengths) if self._last is not None else [{} for _ in self.plans]

    def outcomes(self, lengths: Sequence[int]) -> list[Outcome]:
        """The same, with the error of a row in its place."""
        if self._last is None:
            return [{} for _ in self.plans]
        return self._last.ledger(lengths).outcomes()

    def request_ids(self) -> list[str]:
        """Of continuous batching, in the order of their traces: as they began. Else none."""
        return self._last.request_ids() if isinstance(self._last, Courses) else []

    def verify(self) -> None:
        """Checks that every sequence that ran was steered.

        Raises:
            NotSteeredError: one was not, or the model ran in other threads only.
        """
        self._check_past()
        if self._last is not None:
            self._last.ledger().check()
        elif self.policies:
            refuse_idle(self.threads, self._elsewhere)

    def _check_past(self) -> None:
        for ledger in self._past:
            ledger.check()
        self._past.clear()

    def _on_pass(
        self,
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: dict[str, object] | None = None,
    ) -> None:
        # While one thread enters or leaves, torch calls this in others without their kwargs.
        if kwargs is None or not applies(self, self.threads):
            self._elsewhere += not anything()
            return
        desk, inputs = self._desk, kwargs
        if args:  # generate never does; looking at a signature for every token would cost
            names = inspect.signature(module.forward).parameters
            inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        if desk.probing:
            return
        # A model that drafts for itself leaves out its last blocks; whole passes judge its drafts.
        desk.drafting = self._decoder.num_hidden_layers < self._depth
        if desk.drafting:
            return
        if module.training:
            self.edge.refuse_recomputation()
        desk.packed = inputs.get("cu_seq_lens_q") is not None
        walk = None if desk.packed else desk.continued(inputs)
        begin = self._pack if desk.packed else self._begin
        desk.walk = begin(desk, inputs) if walk is None else self._go_on(desk, walk, inputs)
        desk.narrowed.clear()
        desk.walk.num_passes += 1

    def _on_passed(self, _module: nn.Module, _args: object, output: object) -> None:
        """Ends a pass, and learns which cache its sequences are in."""
        desk = self._desk
        if desk.probing or desk.drafting or not applies(self, self.threads):
            desk.drafting = False
            return
        error = sys.exc_info()[1]  # the pass may have ended in one
        if desk.packed and isinstance(error, Exception) and not anything():
            self._failed = self._failed or error
        desk.end_pass(output)

    def _refuse_stale(self) -> None:
        """Of answers that run anew, or at once: what is written decides what is read later."""
        for policy, name in self._probes():
            if any(read.every for read in policy.steerers[name].reads):
                raise ModelError(
                    f"The steerer {name!r} reads behind its site and looks again while the answer "
                    "is written, which needs the cache. Generate with use_cache=True."
                )

    def _probes(self) -> list[tuple[Policy, str]]:
        return [(p, n) for p, names in zip(self.policies, self.probed, strict=True) for n in names]

    def _rules(self, suffix: int | None) -> Rules:
        given = self.given
        return Rules(self.edge.image_token, suffix, self.spans, given.ends, given.going)

    def _go_on(self, desk: Desk, walk: Walk, inputs: Mapping[str, object]) -> Walk:
        place, width = walk.place, size(inputs)[1]
        assert place is not None
        whole = desk.repeats_all(walk)
        if whole:
            self._refuse_stale()
        chunks = self.given.prompt_tokens is not None and self.given.num_generated is None
        if width > 1 and not whole and not chunks and last_wanted(inputs) != width:
            raise ModelError(
                f"{width} more tokens came at once behind a prompt. If the prompt comes in pieces, "
                "say how long it is: model.steer(..., prompt_tokens=...). If another turn of the "
                "talk begins, begin it with an empty cache."
            )
        rules = self._rules(self.edge.suffix)
        if whole:
            again = lay_out(inputs, rules, prompt_length=place.prompt_length, num_generated=None)
            going = rules.goes_on(place, inputs.get("input_ids"))
            desk.layout, walk.place = repeated(*again, going)
        else:
            num = None if chunks else width
            desk.layout, walk.place = lay_out(inputs, rules, place=place, num_generated=num)
        walk.pass_began(cache_in(inputs), place.columns)
        self._due(desk, prompt=chunks or whole)
        return walk

    def _begin(self, desk: Desk, inputs: dict[str, object]) -> Walk:
        rows, _, device = size(inputs)
        repeats, left = divmod(rows, len(self.plans))
        if left or not repeats:
            raise RecipeError(
                f"{rows} rows came, but steering was set up for {len(self.plans)}. Give one policy "
                "for all rows, or one for each."
            )
        walk = self._walk(device, repeats)
        layout, walk.place = self._first(inputs, repeats)
        refuse_packed(inputs, layout.real)
        if self.given.prompt_tokens is None:
            walk.prompt_columns = layout.shape[1] - (layout.num_generated or 0)
        if layout.tentative:
            walk.pass_began(cache_in(inputs), 0)
        self.edge.refuse_padding(layout.real)
        self._remember(walk)
        desk.begin(walk, inputs)
        if self.rereads or self.spans:
            follow_beams(cache_in(inputs), self, walk.reorder)
        self._due(desk, prompt=True, begins=True)
        if any(self.probed):
            self._probe(desk, inputs, layout, walk.repeats)
        desk.layout = layout
        return walk

    def _walk(self, device: torch.device, repeats: int) -> Walk:
        if device not in self._on_device:
            self._on_device[device] = [p.to(device) for p in self.policies]
        dtype = next(p.dtype for p in self.edge.root.parameters() if p.is_floating_point())
        like = torch.empty(0, self.edge.blocks.d_model, dtype=dtype, device=device)
        return Walk(self.plans, self.policies, self._on_device[device], repeats=repeats, like=like)

    def _remember(self, begun: Walk | Courses) -> None:
        if self._last is not None:
            self._past.append(self._last.ledger())
        if len(self._past) >= 64:
            self._check_past()
        self._last = begun

    def _pack(self, desk: Desk, inputs: dict[str, object]) -> Walk:
        """A pass of continuous batching: pieces of several requests in one row."""
        courses, layout = self._paged.follow(inputs, self._walk)
        if not courses.walk.num_passes:
            self._remember(courses)
        self._due(desk, prompt=-1 in layout.offsets)
        desk.layout = layout
        return courses.walk

    def _first(self, inputs: dict[str, object], repeats: int):
        """Layout of a pass that begins sequences, and where it ends."""
        given, (_, width, device) = self.given, size(inputs)
        seen = dict(inputs)
        if not isinstance(inputs.get("input_ids"), Tensor):
            if given.ids is not None and given.ids.shape[1] == width:
                seen["input_ids"] = given.ids.repeat_interleave(repeats, 0)
            elif self.edge.image_token is not None and self.modalities != {"any"}:
                raise ModelError(
                    "A scope tells image tokens from text, and this pass has embeddings without "
                    "ids. Use model.generate([...]), or a scope for any token."
                )
        lengths, num = None, 0
        if given.prompt_tokens is not None:
            lengths = torch.tensor(given.prompt_tokens, device=device).repeat_interleave(repeats)
            num = given.num_generated
            longest = max(given.prompt_tokens)
            if num is None and width < longest:
                self.edge.refuse_pieces(self.policies, width)
            if num or (num is None and width > longest):
                self._refuse_stale()
        elif inputs.get("use_cache") is True and cache_in(inputs) is not None:
            # Assisted decoding hands its first candidates in with the prompt.
            num = max(0, last_wanted(inputs) - 1)
        layout, place = lay_out(
            seen, self._rules(self.edge.suffix), prompt_length=lengths, num_generated=num
        )
        return replace(layout, tentative=lengths is None and bool(num)), place

    def _due(self, desk: Desk, *, prompt: bool, begins: bool = False) -> None:
        """Notes who reads in this pass: prompts are read once, generated tokens if asked."""
        desk.due = {}
        if prompt or self.rereads:
            desk.due = due_now(self.policies, self.probed, prompt=prompt, begins=begins)

    def _probe(self, desk: Desk, inputs: dict[str, object], layout: Layout, repeats: int) -> None:
        """Passes that only read, stopped behind the deepest read, before anything is written.

        Reads before a generation prompt that the template does not just append need a pass of
        their own, over prompts rendered without it.
        """
        streaming, reads = desk.due, [r for p, n in self._probes() for r in p.steerers[n].reads]
        apart = [r for r in reads if r.effective_offset(self.edge.suffix) is None]
        if apart and self.given.bare is None:
            raise ModelError(
                "This policy reads the prompt without its generation prompt, which this chat "
                "template does not append as plain tokens. Use model.generate([...]), which "
                "renders it."
            )
        keep = without_cache(inputs)
        passes = [(layout, keep)] if len(apart) < len(reads) else []
        if apart and self.given.bare is not None:
            bare = {k: v.repeat_interleave(repeats, 0) for k, v in self.given.bare.items()}
            passes.append((lay_out(bare, self._rules(BARE))[0], dict[str, object](bare)))
        desk.due, desk.probing = due_before(self.policies, self.probed), True
        try:
            for desk.layout, wanted in passes:
                with only(self), suppress(Stop), torch.no_grad():
                    self.edge.root(**{**wanted, "use_cache": False})
        finally:
            desk.probing, desk.due, desk.layout = False, streaming, None

    def _on_site(self, site: Site) -> Callable[[Tensor], Tensor | None]:
        deepest = max(
            (r.site.depth for p, n in self._probes() for r in p.steerers[n].reads), default=None
        )
        writes, start = site in self.writes, self.starts.get(site)

        def act(h: Tensor) -> Tensor | None:
            if not applies(self, self.threads):
                return None
            desk = self._desk
            if desk.drafting:
                return None
            layout, walk = desk.layout, desk.walk
            if layout is None or walk is None:
                if not anything():  # in another thread, and begun before this one entered
                    return None
                raise ModelError(
                    "The decoder ran without the model's own forward. Call the model itself, so "
                    "that steering sees the ids and the mask."
                )
            device = layout.device
            home = h if h.device == device else h.to(device)
            if due := desk.due.get(site):
                walk.observe(layout.tokens(site, home), due)
            if desk.probing:
                if site.depth == deepest:
                    raise Stop
                return None
            if not writes:
                return None
            if start not in desk.narrowed:
                desk.narrowed[start] = layout.behind(start) if layout.is_prompt else layout
            part = desk.narrowed[start]
            if part.is_empty:
                return None
            changed = walk.write(home, site, part)
            return changed if changed.device == h.device else changed.to(h.device)

        return act

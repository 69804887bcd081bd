"""Runs policies inside a transformers model with forward hooks, for the time of one `with`.

All that changes lives in the `Run` of that `with`: nothing is stored on the model, its modules or
the parts. Hooks return new tensors and are removed by handle.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steersman.backends.layout import BARE, Layout, cached_tokens, follow_beams, lay_out
from steersman.backends.tally import Tally
from steersman.backends.taps import attach
from steersman.core.errors import ModelError, RecipeError
from steersman.core.part import map_tensors
from steersman.core.requests import SteererTrace
from steersman.core.steerer import Policy, Steerer, SteererState
from steersman.core.types import Read, Site, Tokens
from steersman.models.blocks import Blocks


class Stop(Exception):
    """Ends a forward pass behind the deepest site that is read. Never leaves this package."""


@dataclass(frozen=True)
class Plan:
    """How one row is steered.

    Attributes:
        vectors: by steerer, for synthesizers that take theirs from the request.
    """

    policy: Policy | None
    strength: float
    vectors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise RecipeError(f"strength is {self.strength}; it must be a finite number.")


@dataclass(frozen=True)
class Edge:
    """What the runtime must know of a model.

    Attributes:
        root: the module whose forward is called; its hook sees ids and masks.
        suffix: tokens of the generation prompt, if the chat template appends them.
        active: the runs at work on it, outermost first.
    """

    root: nn.Module
    blocks: Blocks
    image_token: int | None
    suffix: int | None
    active: list["Run"] = field(default_factory=list)


class Track:
    """One policy of a run, with its state: the rows it steers have non-zero strength."""

    def __init__(
        self, policy: Policy, plans: Sequence[Plan], device: torch.device, suffix: int | None
    ) -> None:
        self.policy = policy.to(device)
        self.probed = policy.probed(suffix, chunked=False)
        self.strength = [p.strength if p.policy is policy else 0.0 for p in plans]
        self.vectors = [dict(p.vectors) if p.policy is policy else None for p in plans]
        self.tally: dict[str, Tally] = {}
        self.repeats = 1
        self.state: dict[str, SteererState] = {}
        self.slots = torch.empty(0)

    def begin(self, repeats: int, like: Tensor) -> None:
        """Resets the state for new sequences; `repeats` rows of the batch share each plan."""
        self.tally = {name: Tally() for name in self.policy.steerers}
        self.repeats = repeats
        strength = [s for s in self.strength for _ in range(repeats)]
        self.slots = torch.tensor([*strength, 0.0], device=like.device)
        given = {
            name: self._stacked(name, repeats, like)
            for name, steerer in self.policy.steerers.items()
            if steerer.synthesizer.needs_vector
        }
        for vectors in self.vectors:
            if unknown := set(vectors or {}) - set(given):
                raise RecipeError(
                    f"A request brings vectors for {', '.join(sorted(unknown))}, but the steerers "
                    f"that take vectors are: {', '.join(given) or 'none'}."
                )
        self.state = self.policy.init(len(self.slots), like, given)

    def _stacked(self, name: str, repeats: int, like: Tensor) -> Tensor:
        width = like.shape[-1]
        rows = []
        for strength, vectors in zip(self.strength, self.vectors, strict=True):
            vector = (vectors or {}).get(name)
            if vector is None and strength != 0:
                raise RecipeError(f"The steerer {name!r} needs Request.vectors[{name!r}].")
            if vector is not None and tuple(vector.shape) != (width,):
                raise RecipeError(
                    f"The vector for {name!r} has the shape {tuple(vector.shape)}; ({width},) is "
                    "needed."
                )
            row = torch.zeros(width) if vector is None else vector.float().cpu()
            rows += [row] * repeats
        return torch.stack([*rows, torch.zeros(width)]).to(like.device)

    def observe(self, x: Tokens, names: Sequence[str]) -> None:
        """Shows `x` to these steerers."""
        for name in names:
            steerer = self.policy.steerers[name]
            self.state[name] = steerer.observe(x, self.state[name])
            self.tally[name].read(x, steerer, len(self.slots))

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on with what row `rows[i]` remembers."""
        kept = torch.cat([rows, rows.new_tensor([len(self.slots) - 1])])
        self.state = map_tensors(self.state, lambda leaf: leaf[kept])

    def write(self, x: Tokens) -> Tensor:
        """The steered states at a site."""
        h, doses = self.policy.write(x, self.state, self.slots)
        for name, dose in doses.items():
            self.tally[name].wrote(x, dose)
        return h


class Run:
    """Policies at work, from entering the `with` to leaving it.

    Args:
        probe_inputs: prompts without generation prompt, for reads that need them.
        forced: how many tokens at the end of each plan's prompt begin the answer already.
    """

    def __init__(
        self,
        edge: Edge,
        plans: Sequence[Plan],
        *,
        probe_inputs: Mapping[str, Tensor] | None = None,
        forced: Tensor | None = None,
    ) -> None:
        self.edge, self.plans = edge, list(plans)
        self.probe_inputs, self.forced = probe_inputs, forced
        parameter = next(edge.root.parameters())
        device, self.dtype = parameter.device, parameter.dtype
        distinct = {id(p.policy): p.policy for p in plans if p.policy is not None and p.strength}
        self.tracks = [
            Track(policy, self.plans, device, edge.suffix) for policy in distinct.values()
        ]
        self.layout: Layout | None = None
        self._prompt_ids: Tensor | None = None
        self._width = 0
        self.probing = self.bare = self.muted = False
        self.num_passes = 0
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "Run":
        if not self.tracks:
            return self  # nothing to do: the model runs untouched
        sites = {s for t in self.tracks for s in t.policy.sites}
        sites |= {r.site for t in self.tracks for r in t.policy.reads}
        try:
            hook = self.edge.root.register_forward_pre_hook(self._on_pass, with_kwargs=True)
            self._handles.append(hook)
            for site in sorted(sites, key=lambda s: s.depth):
                self._handles.append(attach(self.edge.blocks, site, self._on_site(site)))
        except Exception:
            self._remove()
            raise
        self.edge.active.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self in self.edge.active:
            self.edge.active.remove(self)
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.layout = None

    def traces(self, num_passes: Sequence[int] | None = None) -> list[dict[str, SteererTrace]]:
        """What was done to each plan's row, by steerer; a plan with beams shows its first.

        Raises:
            NotSteeredError: steering was asked for and could not act.
        """
        made: list[dict[str, SteererTrace]] = [{} for _ in self.plans]
        counted = list(num_passes or [self.num_passes] * len(self.plans))
        for track in self.tracks:
            slots = range(0, len(self.plans) * track.repeats, track.repeats)
            for name, tally in track.tally.items():
                steerer = track.policy.steerers[name]
                rows = tally.traces(
                    name,
                    steerer,
                    strength=track.strength,
                    num_passes=counted,
                    slots=slots,
                    may_end=num_passes is not None,
                )
                for row, trace in zip(made, rows, strict=True):
                    if trace is not None:
                        row[name] = trace
        return made

    def _on_pass(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> None:
        if self.muted:
            return
        inputs = kwargs
        if args:  # generate never does; looking at a signature for every token would cost
            names = inspect.signature(module.forward).parameters
            inputs = {**dict(zip(names, args, strict=False)), **kwargs}
        known = self._known_length(inputs)
        self.layout = self._lay_out(inputs, known)
        if self.probing:
            return
        if self.layout.is_prompt:
            if known is not None:
                self._refuse_stale()
            self._begin(inputs)
        self.num_passes += 1
        for track in self.tracks:
            for tally in track.tally.values():
                tally.new_pass(len(track.slots), self.layout.request.device)

    def _refuse_stale(self) -> None:
        """Of passes without a cache: what was written decides what is read later, and is gone."""
        for track in self.tracks:
            for name in track.probed:
                if any(read.every for read in track.policy.steerers[name].reads):
                    raise ModelError(
                        f"The steerer {name!r} reads behind its site and looks again while the "
                        "answer is written, which needs the cache. Generate with use_cache=True."
                    )

    def _known_length(self, inputs: Mapping[str, object]) -> Tensor | None:
        """Of the prompts that this pass continues; None if it begins new ones.

        Without a cache every pass runs the whole sequence: it continues where it has one token
        more than the pass before and begins with the same prompt.
        """
        known = None if self.layout is None or self.bare else self.layout.prompt_length
        if self.bare or self.probing or cached_tokens(inputs) > 0:
            return known
        ids, prompt, width = inputs.get("input_ids"), self._prompt_ids, self._width
        self._width = ids.shape[1] if isinstance(ids, Tensor) else 0
        if isinstance(ids, Tensor) and prompt is not None and inputs.get("use_cache") is False:
            begins = ids[:, : prompt.shape[1]]
            if self._width == width + 1 and torch.equal(begins, prompt):
                return known
        self._prompt_ids = ids if isinstance(ids, Tensor) else None
        return None

    def _lay_out(self, inputs: Mapping[str, object], prompt_length: Tensor | None) -> Layout:
        return lay_out(
            inputs,
            image_token=self.edge.image_token,
            suffix=BARE if self.bare else self.edge.suffix,
            prompt_length=prompt_length,
            forced=None if self.bare else self.forced,
        )

    def _begin(self, inputs: dict[str, object]) -> None:
        assert self.layout is not None
        repeats, left = divmod(self.layout.num_rows, len(self.plans))
        if left or not repeats:
            raise RecipeError(
                f"{self.layout.num_rows} rows came, but steering was set up for {len(self.plans)}. "
                "Give one policy for all rows, or one for each."
            )
        self.num_passes = 0
        device = self.layout.request.device
        like = torch.empty(0, self.edge.blocks.d_model, dtype=self.dtype, device=device)
        for track in self.tracks:
            track.begin(repeats, like)
        if any(read.every for track in self.tracks for read in track.policy.reads):
            follow_beams(inputs, self._reorder)
        if any(track.probed for track in self.tracks):
            self._probe(inputs)

    def _reorder(self, rows: Tensor) -> None:
        for track in self.tracks if self.layout is not None else ():
            track.reorder(rows)

    def _probe(self, inputs: dict[str, object]) -> None:
        """Passes that only read, stopped behind the deepest read, before anything is written.

        Reads before a generation prompt that the template does not just append need a pass of
        their own, over prompts rendered without it.
        """
        layout = self.layout
        reads = [read for track in self.tracks for read in self._probe_reads(track)]
        apart = [r for r in reads if r.effective_offset(self.edge.suffix) is None]
        if apart and self.probe_inputs is None:
            raise ModelError(
                "This policy reads the prompt without its generation prompt, which this chat "
                "template does not append as plain tokens. Use model.generate([...]), which "
                "renders it."
            )
        keep = {k: v for k, v in inputs.items() if k not in ("past_key_values", "use_cache")}
        passes = [(False, keep)] if len(apart) < len(reads) else []
        passes += [(True, dict(self.probe_inputs))] if apart and self.probe_inputs else []
        self.probing = True
        try:
            for self.bare, wanted in passes:
                others = [run for run in self.edge.active if run is not self]
                with muted(others), suppress(Stop), torch.no_grad():
                    self.edge.root(**{**wanted, "use_cache": False})
        finally:
            self.probing = self.bare = False
            self.layout = layout

    def _on_site(self, site: Site) -> Callable[[Tensor], Tensor | None]:
        deepest = max(
            (r.site.depth for t in self.tracks for r in self._probe_reads(t)), default=None
        )

        writing = [t for t in self.tracks if site in t.policy.sites]

        def act(h: Tensor) -> Tensor | None:
            if self.muted:
                return None
            if self.layout is None:
                raise ModelError(
                    "The decoder ran without the model's own forward. Call the model itself, so "
                    "that steering sees the ids and the mask."
                )
            x = self.layout.tokens(site, h)
            for track in self.tracks:
                track.observe(x, track.probed if self.probing else self._streaming(track))
            if self.probing:
                if site.depth == deepest:
                    raise Stop
                return None
            if not writing:
                return None
            for track in writing:
                x = x.with_h(track.write(x))
            return x.h.reshape(h.shape)

        return act

    def _probe_reads(self, track: Track) -> list[Read]:
        return [r for n in track.probed for r in track.policy.steerers[n].reads]

    def _streaming(self, track: Track) -> list[str]:
        """Steerers that read in this pass: prompts are read once, generated tokens if asked."""
        assert self.layout is not None
        is_prompt = self.layout.is_prompt

        def due(steerer: Steerer) -> bool:
            return is_prompt or any(r.every for r in steerer.reads)

        return [
            name
            for name, steerer in track.policy.steerers.items()
            if due(steerer) and not (is_prompt and name in track.probed)
        ]


@contextmanager
def muted(runs: Sequence[Run]) -> Iterator[None]:
    """Keeps runs out of the passes inside: they neither read nor write."""
    quiet = [run for run in runs if not run.muted]
    for run in quiet:
        run.muted = True
    try:
        yield
    finally:
        for run in quiet:
            run.muted = False

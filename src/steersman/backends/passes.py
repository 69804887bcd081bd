"""Runs trees of tokens through a model, every run of tokens once, and keeps what is read."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from steersman.backends.continued import Prefix, places_of
from steersman.backends.edge import Stop
from steersman.backends.engine import Piece, Reading
from steersman.backends.entered import applies, only
from steersman.backends.forest import Node, batches
from steersman.backends.reading import How, Interval, Parts, Segments, interval
from steersman.backends.taps import attach
from steersman.core.errors import ModelError
from steersman.core.types import Prompt, Site
from steersman.models.blocks import Blocks
from steersman.models.chat import Chat, Encoded
from steersman.models.sharded import is_sharded

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


@dataclass
class Window:
    """The prompts that are read together, and what was read of them so far.

    Attributes:
        known: prompts that need not be read.
        spent: tokens run since the last piece.
    """

    prompts: Sequence[Prompt]
    encoded: Encoded
    reading: Reading
    intervals: Sequence[Interval]
    parts: Parts
    known: Collection[int] = ()
    spent: int = 0

    @classmethod
    def of(
        cls,
        prompts: Sequence[Prompt],
        encoded: Encoded,
        reading: Reading,
        known: Collection[int] = (),
    ) -> "Window":
        """Nothing of it read yet.

        Raises:
            RecipeError: a span has no tokens.
        """
        intervals = [
            interval(reading.position, num, len(row["input_ids"]))
            for num, row in zip(encoded.prompt_length, encoded.rows, strict=True)
        ]
        return cls(prompts, encoded, reading, intervals, Parts(how_of(reading)), known)

    @property
    def has_images(self) -> bool:
        return bool(self.prompts[0].images)

    def piece(self, prompts: Sequence[int]) -> Piece:
        """What was read of complete prompts, which is forgotten here."""
        num = [len(self.intervals[i]) for i in prompts]
        each = self.reading.position is None
        states = {site: self.parts.take(prompts, site, num) for site in self.reading.sites}
        for i in prompts:
            del self.parts.states[i]
        said = [self._said(i) for i in prompts] if each else None
        spent, self.spent = self.spent, 0
        return Piece(
            tuple(prompts),
            tuple(num) if each else (1,) * len(prompts),
            states,
            None if said is None else torch.cat(said),
            spent,
        )

    def _said(self, i: int) -> Int[Tensor, " n"]:
        return self.encoded.rows[i]["input_ids"][self.encoded.prompt_length[i] :]


class Behind(NamedTuple):
    """What the next tokens continue: keys and values, which columns of them are tokens, and where
    positions go on, in models that number several axes.
    """

    cache: Prefix
    mask: Int[Tensor, "b s"]
    positions: Int[Tensor, "c b"] | None


@dataclass
class Passes:
    """Forward passes of one model that end where nothing more is read.

    Attributes:
        budget: tokens of one pass; halved when memory runs out.
        limit: longer rows run whole, and with others of their length only.
        places: whether the model is told positions that leave padding out.
    """

    model: PreTrainedModel
    blocks: Blocks
    chat: Chat
    places: bool
    device: Callable[[], torch.device]
    budget: int
    lock: RLock = field(default_factory=RLock)
    limit: int | None = None

    def run(self, window: Window, trees: Sequence[Node]) -> Iterator[Piece]:
        """The pieces of a window; nodes and pieces count its prompts.

        Raises:
            ModelError: a site did not run, one prompt alone needs more memory than there is, or the
                model is in training mode.
        """
        drops = (m for m in self.model.modules() if isinstance(m, nn.Dropout) and m.p > 0)
        if self.model.training or any(module.training for module in drops):
            raise ModelError(
                f"{type(self.model).__name__} is in training mode, in which dropout draws another "
                "state each time. Call model.eval() before it is read."
            )
        exact = self.blocks.padding_disturbs
        for nodes in batches(trees, self.budget, exact=exact, limit=self.limit):
            if window.has_images:  # in the order in which they were processed
                nodes.sort(key=lambda node: node.members[0])
            yield from self._run(window, nodes, None)

    def _run(
        self,
        window: Window,
        nodes: Sequence[Node],
        behind: Behind | None,
        parents: Sequence[int] = (),
    ) -> Iterator[Piece]:
        """One batch of nodes and all that is below them.

        Args:
            parents: by node, the row of `behind` that it continues.
        """
        if all(i in window.known for node in nodes for i in node.members):
            return
        done, here = True, None
        try:
            here = self._pass(window, nodes, behind, parents)
        except RuntimeError as error:
            _refuse(error, nodes, shared=is_sharded(self.model))
            done = False
        if not done:  # out here, where the error no longer holds the tensors of the pass
            self.budget = max(1, self.budget // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            half = len(nodes) // 2
            yield from self._run(window, nodes[:half], behind, parents[:half])
            yield from self._run(window, nodes[half:], behind, parents[half:])
            return
        if complete := [i for node in nodes for i in node.ending]:
            yield window.piece(complete)
        if here is None:
            return
        row_of = {id(child): row for row, node in enumerate(nodes) for child in node.children}
        for some in batches(
            [child for node in nodes for child in node.children],
            self.budget,
            past=here.mask.shape[1],
            exact=self.blocks.padding_disturbs,
        ):
            yield from self._run(window, some, here, [row_of[id(child)] for child in some])

    def _pass(
        self,
        window: Window,
        nodes: Sequence[Node],
        behind: Behind | None,
        parents: Sequence[int],
    ) -> Behind | None:
        """Runs the nodes and reads them; what their children continue, if there are any."""
        inputs = self._moved(
            self.chat.padded(
                [
                    {name: values[node.start : node.stop] for name, values in row.items()}
                    for node in nodes
                    for row in [window.encoded.rows[node.members[0]]]
                ],
                "left" if behind is None else "right",
            )
        )
        images = self._images(window, nodes) if behind is None and window.has_images else {}
        mask, width = inputs["attention_mask"], inputs["input_ids"].shape[1]
        num_tokens = int(mask.sum())
        segments = _segments(window, nodes, width, left=behind is None)
        cache, positions = None, None
        if behind is not None:
            rows = torch.tensor(parents, device=mask.device)
            cache, mask = behind.cache.forked(rows), torch.cat([behind.mask[rows], mask], dim=1)
            if behind.positions is not None:
                step = torch.arange(width, device=mask.device)
                inputs["position_ids"] = behind.positions[:, rows, None] + step
                positions = behind.positions[:, rows] + width
        elif any(node.children for node in nodes):
            cache = Prefix(config=self.model.config)
            if (found := places_of(self.model, {**inputs, **images})) is not None:
                inputs["position_ids"], positions = found
        if cache is not None and not segments.prompts:
            cache.last = _last_cached(window.reading.sites)
        if self.places and "position_ids" not in inputs:
            inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -width:]
        given = {**inputs, **images, "attention_mask": mask}
        read = self._states(window.reading, segments, given, cache)
        for site, states in read.items():
            window.parts.add(segments, site, states)
        window.spent += num_tokens
        if cache is None or not any(node.children for node in nodes):
            return None
        return Behind(cache, mask, positions)

    def _images(self, window: Window, nodes: Sequence[Node]) -> dict[str, Tensor]:
        """What belongs to the images of the nodes."""
        encoded, first = window.encoded, [node.members[0] for node in nodes]
        if first != encoded.processed:
            encoded = self.chat.rows([replace(window.prompts[i], completion=None) for i in first])
        return self._moved(encoded.images)

    def _moved(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        device, dtype = self.device(), self.model.dtype
        return {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in inputs.items()
        }

    def _states(
        self,
        reading: Reading,
        segments: Segments,
        inputs: dict[str, Tensor],
        cache: Prefix | None,
    ) -> dict[Site, Tensor]:
        how = how_of(reading)
        found: dict[Site, Tensor] = {}
        deepest, mine = max(reading.sites, key=lambda site: site.depth), object()

        def keep(site: Site) -> Callable[[Tensor], None]:
            def act(h: Tensor) -> None:
                if not applies(mine, "own"):
                    return  # another thread's call
                if segments.prompts:
                    found[site] = segments.read(h, how)
                if site == deepest:
                    raise Stop

            return act

        with self.lock, only(mine), ExitStack() as handles, torch.no_grad():
            for site in reading.sites:
                handles.callback(attach(self.blocks, site, keep(site)).remove)
            with suppress(Stop):
                more = {} if cache is None else {"past_key_values": cache}
                self.model(**inputs, **more, use_cache=cache is not None)
        missing = [site for site in reading.sites if site not in found]
        if missing and segments.prompts:
            raise ModelError(
                f"{', '.join(str(site) for site in missing)} did not run for these prompts: this "
                f"block of {type(self.model).__name__} may look at images only. Give prompts with "
                "images, or choose another layer."
            )
        return found


def how_of(reading: Reading) -> How:
    """How the states of one prompt become rows."""
    return "each" if reading.position is None else reading.position.reduce


def _segments(window: Window, nodes: Sequence[Node], width: int, *, left: bool) -> Segments:
    """What is read of the nodes, which are rows of `width` columns, padded on one side."""
    found: list[tuple[int, int, int, tuple[int, ...]]] = []
    for row, node in enumerate(nodes):
        same: dict[Interval, list[int]] = {}
        for i in node.members:
            part = window.intervals[i].within(node.start, node.stop)
            if len(part):
                same.setdefault(part, []).append(i)
        shift = (width - len(node) if left else 0) - node.start
        found += [(row, p.start + shift, len(p), tuple(who)) for p, who in same.items()]
    return Segments.of(found)


def _last_cached(sites: Sequence[Site]) -> int:
    """The last block whose keys and values later tokens need on their way to the sites."""
    deepest = max(sites, key=lambda site: site.depth)
    return deepest.layer - (deepest.point == "resid_pre")


def _refuse(error: RuntimeError, nodes: Sequence[Node], *, shared: bool) -> None:
    """Lets pass what a smaller batch may cure, if this process may run it without others."""
    told = str(error).lower()
    if not isinstance(error, torch.OutOfMemoryError) and not any(t in told for t in OUT_OF_MEMORY):
        raise error
    if shared:
        raise ModelError(
            "There is not enough memory for a pass of the model that several processes share, and "
            "one of them cannot try a smaller one alone. Give HFModel a smaller token_budget, or "
            "start more processes."
        ) from error
    if len(nodes) == 1:
        raise ModelError(
            f"There is not enough memory to read one prompt of {nodes[0].stop} tokens "
            f"({told.splitlines()[0][:200]}). Shorten the prompt, load the model in a smaller "
            "dtype, or spread it over devices with device_map."
        ) from error

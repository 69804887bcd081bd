"""Board: the worker's side of steering. One row per request; taps read, decide and write.

The runner tells before each pass which tokens are whose (`begin`) and runs the model through
`around`: once, or, where a vector must be known before the pass that writes, twice. Rows live as
long as their requests, through preemption.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from steersman.backends.vllm.passes import Pass, Writing, pass_over
from steersman.backends.vllm.plan import course
from steersman.backends.vllm.rows import Entry, Kept, Piece, Row, no_images, on_device
from steersman.backends.vllm.tables import FAR, Place, View
from steersman.backends.vllm.wire import Order
from steersman.core.errors import SteersmanError
from steersman.core.serving import RefusedError, told
from steersman.core.steerer import Policy
from steersman.core.tree import Plain
from steersman.core.types import Site, Tokens

T = TypeVar("T")
Asked = Callable[[str], tuple[Order | None, Sequence[int]]]
"""From a request's id to its order and the ids of its prompt."""
LOG = logging.getLogger("steersman.vllm")


class Board:
    """What one worker knows of steering.

    Attributes:
        begun: whether a pass was prepared and has not run yet.
        edits: what was written, with the requests (a line each), where it is to be kept.

    Args:
        widths: of the states at every site that has a tap.
        num_rows: requests that may be under way; more of them make the tables grow, unless they
            are `fixed`.
        num_tokens: of the longest pass.
        like: an empty tensor `(0, d)` of the model's type, on its device.
        fixed: tables must stay where they are, since recorded graphs read them.
        image_token: id that stands for a piece of an image.
    """

    def __init__(
        self,
        widths: Mapping[Site, int],
        *,
        num_rows: int,
        num_tokens: int,
        like: Tensor,
        fixed: bool = False,
        image_token: int | None = None,
    ) -> None:
        self.widths, self.like, self.fixed = dict(widths), like, fixed
        self.num_rows, self.num_tokens, self.image_token = num_rows, num_tokens, image_token
        self.places = {s: Place(s, w, num_rows, like.device) for s, w in widths.items()}
        self.rows: dict[str, Row] = {}
        self.edits: list[tuple[str, Site, Tensor, Tensor]] | None = None
        self._entries: dict[str, Entry] = {}
        self._free = list(range(num_rows - 1, -1, -1))
        self._known: set[str] = set()
        self._over = Kept()
        self._pass: Pass | None = None
        self._phase: str = ""  # "", "early" or "write"
        self.begun = False
        self._head: Pass | None = None
        device = like.device
        self._request = torch.full((num_tokens,), num_rows, dtype=torch.long, device=device)
        self._offset = torch.full((num_tokens,), -FAR, dtype=torch.long, device=device)
        self._modality = torch.zeros(num_tokens, dtype=torch.long, device=device)

    def load(self, digest: str, policy: Policy) -> None:
        """Makes a policy one that requests may have.

        Raises:
            RefusedError: it writes or reads where no tap is, or graphs were recorded without it.
        """
        sites = {*policy.sites, *(read.site for read in policy.reads)}
        if missing := sorted(sites - set(self.widths), key=lambda s: s.depth):
            raise RefusedError(
                "E_NEEDS_RESTART",
                f"It needs {', '.join(map(str, missing))}, where this server has no tap. Restart "
                'it with the policy in its folder, or with these under "sites".',
            )
        entry = Entry.of(policy.to(self.like.device), num_rows=self.num_rows, like=self.like)
        late, cap = self.fixed and self._recorded, policy.max_relative_norm
        for site, names in entry.rounds.items():
            place = self.places[site]
            for k, name in enumerate(names):
                operator = entry.policy.steerers[name].operator
                if late and not (
                    place.has(k, operator) and (cap is None or place.caps is not None)
                ):
                    raise RefusedError(
                        "E_NEEDS_RESTART",
                        f"Graphs were recorded without the operator of {name!r} at {site}, or "
                        "without a norm cap. Restart the server with the policy in its folder.",
                    )
                place.group(k, operator)
            place.bound(self.num_rows, cap)
        self._entries[digest] = entry

    def begin(
        self, requests: Sequence[str], starts: np.ndarray, nums: np.ndarray, asked: Asked
    ) -> None:
        """Prepares for a pass over pieces of these requests, side by side in this order."""
        self.begun = self._recorded = True
        for name in set(requests) - self._known:
            self._known.add(name)
            self._admit(name, *asked(name))
        before = self._pass
        if before is not None and before.goes_on(requests, starts, nums):
            before.repeats += 1
            return
        self._settle()
        pieces = zip(requests, starts, nums, strict=True) if self.rows else ()
        mine = [(self.rows.get(r), Piece(r, int(s), int(n))) for r, s, n in pieces]
        if all(row is None for row, _ in mine):
            if self.fixed and self._pass is not None:
                self._request.fill_(self.num_rows)
            self._pass = None
            return
        self._pass = pass_over(mine, places=self.places, device=self.like.device)
        if self.fixed:
            self._fill(self._pass)

    @property
    def acts(self) -> bool:
        """Whether anything is read or written in the pass that `begin` prepared."""
        return self._pass is not None

    @property
    def needs_eager(self) -> bool:
        """Whether this pass does what a recorded graph cannot: reading, or singles."""
        now = self._pass
        return now is not None and bool(now.due or now.early or now.has_singles)

    def around(self, run: Callable[[], T]) -> T:
        """Runs the model steered: first without writing, where something must be known before."""
        now = self._pass if self.begun else None
        self.begun = False
        if now is None:
            return run()
        try:
            if now.early:
                self._phase = "early"
                run()
            self._phase = "write"
            made = run()
        finally:
            self._phase = ""
        self._head = now
        return made

    def replayed(self) -> None:
        """Notes that the pass was the replay of a graph, whose ops have written already."""
        self._head = self._pass if self.begun else None
        self.begun = False

    def tap(self, site: Site, hidden: Tensor, residual: Tensor | None) -> None:
        """Reads and writes the stream `hidden + residual` `(n, d)` at a site, in place.

        Outside of `around` it does nothing, but where a graph is recorded: then it does what the
        tables say of the tokens in the buffers.
        """
        if not self._phase:
            if self.fixed and hidden.is_cuda and torch.cuda.is_current_stream_capturing():
                self.recorded(site, hidden, residual)
            return
        now = self._pass
        assert now is not None
        early = self._phase == "early"
        due = now.early if early else now.due
        if site in due:
            self._observe(site, due[site], hidden, residual)
        if not early and (writing := now.writing.get(site)) is not None:
            self._write(site, writing, hidden, residual)

    def recorded(self, site: Site, hidden: Tensor, residual: Tensor | None) -> None:
        """What a graph records: all groups, over all tokens of the buffers."""
        self._recorded = True
        num = len(hidden)
        place = self.places[site]
        view = View(self._request[:num], self._offset[:num], self._modality[:num])
        if not place.rounds:
            return
        stream = hidden.float() if residual is None else hidden.float() + residual
        change = place.write(stream, view, place.rounds) - stream
        hidden.copy_(torch.where(change == 0, hidden, (hidden.float() + change).to(hidden.dtype)))

    def head(self, states: Tensor) -> Tensor:
        """The final normalised states that tokens are sampled from, steered."""
        now, self._head = self._head, None
        if now is None or not now.head:
            return states
        assert len(states) == now.num_pieces, "the head was given other rows than were sampled"
        for site in now.head:
            if (writing := now.writing.get(site)) is not None:
                states = states.clone()
                self._write(site, writing, states, None)
        return states

    def remove(self, request: str) -> None:
        """Ends a request; what was done to it can be asked for a while."""
        self._known.discard(request)
        row = self.rows.get(request)
        if row is None:
            return
        self._settle()
        del self.rows[request]
        if not row.order.trace:
            self._warn(row)
        elif not row.told:
            self._over.keep(row.order.trace, self._told(row))
        for place, name, k in self._held(row):
            place.group(k, row.entry.policy.steerers[name].operator).free(row.index)
        self._free.append(row.index)

    @torch.inference_mode()  # as the passes whose counts it reads and clears
    def trace(self, name: str) -> list[dict[str, Plain]]:
        """What was done to the requests of that name, as answers tell it; waits for the device.

        Each is told once. An entry with "error" says that steering was asked for and did not act.
        """
        self._settle()
        live = [row for row in self.rows.values() if row.order.trace == name]
        for row in live:
            row.told = True
        return [*self._over.take(name), *(self._told(row) for row in live)]

    def _warn(self, row: Row) -> None:
        """Says it where nobody asks. On a GPU this would be to wait, for every request."""
        if self.like.device.type != "cpu":
            return
        if "error" in (made := self._told(row)):
            LOG.error("request %s was not steered: %s", row.request, made["error"])

    def _told(self, row: Row) -> dict[str, Plain]:
        try:
            made = told(row.order.steering, row.trace(self.places))
        except SteersmanError as error:
            made = {"error": {"code": "not_steered", "message": str(error)}}
        return {**made, "request": row.request}

    def _admit(self, request: str, order: Order | None, prompt: Sequence[int]) -> None:
        if order is None or order.strength == 0:
            if order is not None and order.trace:
                self._over.keep(order.trace, {**told(order.steering, {}), "request": request})
            return
        entry = self._entries.get(order.digest)
        if entry is None:
            message = f"{order.policy!r} was replaced before the request ran. Ask again."
            LOG.error("request %s was not steered: %s", request, message)
            if order.trace:
                error = {"code": "E_UNLOADED", "message": message}
                self._over.keep(order.trace, {"error": error, "request": request})
            return
        policy = order.steering.scoped(entry.policy)
        images = no_images()
        if any(s.scope.modality != "any" for s in policy.steerers.values()):
            images = np.asarray(prompt) == (-1 if self.image_token is None else self.image_token)
        row = Row(
            self._row(),
            request,
            order,
            entry,
            course(policy, num_prompt=len(prompt), suffix=order.suffix),
            len(prompt),
            {name: s.scope for name, s in policy.steerers.items()},
            images,
        )
        self.rows[request] = row
        cap = entry.policy.max_relative_norm
        for place, name, k in self._held(row):
            place.forget(row.index)
            place.bound(row.index, cap)
            operator = entry.policy.steerers[name].operator
            place.group(k, operator).take(row.index, row.scopes[name])
        for name, steerer in entry.policy.steerers.items():
            if not steerer.reads:
                self._decide(entry, name, [row])

    def _held(self, row: Row) -> list[tuple[Place, str, int]]:
        entry = row.entry
        return [
            (self.places[site], name, k)
            for site, names in entry.rounds.items()
            for k, name in enumerate(names)
        ]

    def _row(self) -> int:
        if not self._free:
            self._grow()
        return self._free.pop()

    def _grow(self) -> None:
        """Twice as many rows; those there are stay."""
        if self.fixed:
            raise RuntimeError(
                f"{self.num_rows} requests are under way, and recorded graphs hold no more rows. "
                "Start the server with a larger --max-num-seqs."
            )
        num, old = 2 * self.num_rows, self.num_rows
        order = torch.tensor([*range(old), *[old] * (num - old), old], device=self.like.device)
        for place in self.places.values():
            place.grow(num, order)
        for entry in self._entries.values():
            entry.state = {n: entry.take(n, order) for n in entry.state}
        self._free += range(num - 1, old - 1, -1)
        self.num_rows = num

    def _observe(
        self,
        site: Site,
        due: Sequence[tuple[Row, int, int]],
        hidden: Tensor,
        residual: Tensor | None,
    ) -> None:
        """Shows readers their tokens, and decides where a steerer has seen all it reads."""
        alike: dict[tuple[int, str, int], list[tuple[Row, int, int]]] = {}
        for row, i, token in due:
            reader = row.course.readers[i]
            key = (id(row.entry), reader.name, max(row.order.suffix, 0))
            alike.setdefault(key, []).append((row, i, token))
        for (_, name, suffix), members in alike.items():
            entry = members[0][0].entry
            rows = list(dict.fromkeys(row for row, _, _ in members))
            number = {id(row): n for n, row in enumerate(rows)}
            shown = list(
                dict.fromkeys((row, row.course.readers[i].position, t) for row, i, t in members)
            )
            device = self.like.device
            table = torch.tensor(
                [[number[id(row)], at, at - row.num_prompt, t] for row, at, t in shown]
            ).to(device, non_blocking=True)
            request, position, offset, token = table.unbind(1)
            index = on_device([row.index for row in rows], device)
            h = hidden[token] if residual is None else hidden[token] + residual[token]
            x = Tokens(site, h, request, position, offset, torch.zeros_like(offset), suffix)
            steerer = entry.policy.steerers[name]
            entry.put(name, index, steerer.observe(x, entry.take(name, index)))
            for row, i, _ in members:
                row.read.add(i)
            self._decide(entry, name, [row for row in rows if row.complete(name)])

    def _decide(self, entry: Entry, name: str, rows: Sequence[Row]) -> None:
        """Sets what rows are edited with, from what was seen of them."""
        if not rows or name in entry.singles:
            return
        steerer, device = entry.policy.steerers[name], self.like.device
        index = on_device([row.index for row in rows], device)
        state = entry.take(name, index)
        gate = steerer.gate.per_request(state.gate)
        doses = torch.tensor([row.dose * steerer.strength for row in rows]).to(device)
        opened = torch.as_tensor(gate, dtype=torch.float32, device=device).expand(len(rows))
        for site in steerer.sites:
            k = entry.rounds[site].index(name)
            vectors = steerer.synthesizer.per_request(site, state.synthesizer)
            assert vectors is not None
            self.places[site].group(k, steerer.operator).set(index, vectors, opened, opened * doses)

    def _write(self, site: Site, writing: Writing, hidden: Tensor, residual: Tensor | None) -> None:
        now, place = self._pass, self.places[site]
        whole = len(writing.index) == len(hidden)
        some = hidden if whole else hidden[writing.index]
        stream = some.float()
        if residual is not None:
            stream = stream + (residual if whole else residual[writing.index])
        steady = writing.repeated(place) if now is not None and now.repeats else None
        if steady is not None:
            change = steady.change(stream)
        else:
            change = place.write(stream, writing.view, writing.groups, writing.singles) - stream
        if self.edits is not None:
            names = "\n".join(writing.requests)
            self.edits.append((names, site, writing.view.offset.clone(), change.clone()))
        if whole:
            hidden.add_(change)
        else:
            hidden.index_copy_(0, writing.index, (some.float() + change).to(hidden.dtype))

    def _settle(self) -> None:
        """Counts what the last pass and its repetitions did."""
        if self._pass is not None:
            self._pass.settle()

    def _fill(self, now: Pass) -> None:
        """The buffers that recorded graphs read."""
        self._request.fill_(self.num_rows)
        index, view = now.everyone
        self._request.index_copy_(0, index, view.request)
        self._offset.index_copy_(0, index, view.offset)
        self._modality.index_copy_(0, index, view.modality)

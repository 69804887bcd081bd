"""Whether what prompts have in common may be run once: tried on a few of them, never believed.

Most models that attend give the same states. Some do not continue from a cache by many tokens,
some look at the whole prompt from its first token on, some keep their state elsewhere.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.backends.engine import Reading
from steersman.backends.forest import Kind, Node, TokenRow, forest
from steersman.backends.passes import Passes, Window
from steersman.backends.windows import pictures_of, token_rows
from steersman.core.types import Position, Prompt, Site
from steersman.models.chat import Encoded, continued
from steersman.models.halves import FAILURES

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4}
TOLERANCE = 2e-2  # of the length of a state, in half precision
FEW = 2  # prompts, with two completions each
ANSWERS = (1, 6, 19)  # lengths of answers that must be continued rightly
MORE = 3  # tokens of a longer prompt
FAILED = (*FAILURES, NotImplementedError)
SHARED: dict[Kind, str] = {
    "completions": "the completions of a prompt",
    "header": "prompts that begin alike",
}


class SharingWarning(UserWarning):
    """Prompts of a model are read one by one, without running once what they have in common."""


@dataclass
class Proof:
    """What may be shared by the prompts of one model.

    A proof holds for the sites that were read, and no others: what a block adds may be wrong where
    the stream that it is added to hides it, and a pass that ends earlier leaves other things
    undone. A failure holds for all layers below.

    Attributes:
        right: what may be shared where which sites are read.
        wrong: by what is shared, the first layer found whose states did not.
        notes: what came out wrong, in a sentence.
    """

    passes: Passes
    image_token: int | None
    right: set[tuple[Kind, tuple[Site, ...]]] = field(default_factory=set)
    wrong: dict[Kind, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def allowed(
        self, prompts: Sequence[Prompt], reading: Reading, rows: Sequence[TokenRow]
    ) -> list[Kind]:
        """What these prompts may share; tries it where that is not known yet."""
        deepest = max(reading.sites, key=lambda site: site.depth)
        if deepest.depth == (0, 0):
            return []  # no block is run at all
        kinds: list[Kind] = []
        for kind in SHARED:
            known = (kind, reading.sites) in self.right
            failed = kind in self.wrong and deepest.layer >= self.wrong[kind]
            if not known and not failed:
                sample = _sample(rows, kind, [*kinds, kind])
                if not sample:
                    continue
                why = self._tried([prompts[i] for i in sample], reading, [*kinds, kind])
                known = not why
                self._remember(kind, reading.sites, why)
            if known:
                kinds.append(kind)
        return kinds

    def _remember(self, kind: Kind, sites: tuple[Site, ...], why: str) -> None:
        if not why:
            self.right.add((kind, sites))
            return
        deepest = max(site.layer for site in sites)
        self.wrong[kind] = min(deepest, self.wrong.get(kind, deepest))
        self.notes.append(
            f"{type(self.passes.model).__name__} reads {SHARED[kind]} one by one, as running what "
            f"they share only once does not give the same states: {why}. Results are right, and "
            "slower."
        )
        warnings.warn(self.notes[-1], SharingWarning, stacklevel=2)

    def _tried(self, prompts: Sequence[Prompt], reading: Reading, kinds: Sequence[Kind]) -> str:
        """Reads prompts with and without sharing; what is wrong, if anything is.

        Answers of several lengths to the first prompt are tried as well, and to a longer prompt
        beside it: some models continue rightly by a few tokens and wrongly by many, or rightly
        where no prompt is padded.
        """
        pictures = pictures_of(prompts)
        encoded = self.passes.chat.rows(prompts, same=pictures)
        rows = token_rows(prompts, encoded, pictures, self.image_token)
        longer = _longer(encoded, self.passes.limit)
        long_rows = [
            replace(rows[0], ids=tuple(row["input_ids"].tolist()), prompt=num)
            for row, num in zip(longer.rows, longer.prompt_length, strict=True)
        ]
        whole = [replace(prompts[0], completion="", close_turn=False)] * len(longer.rows)
        said = replace(reading, position=Position("completion", "mean"))
        try:
            why = ""
            if longer.rows:  # beyond a limit, nothing is shared
                why = self._apart(Window.of(whole, longer, said), long_rows, ["completions"])
            return why or self._apart(Window.of(prompts, encoded, reading), rows, kinds)
        except FAILED as error:
            return f"it failed with {type(error).__name__}: {str(error)[:200]}"

    def _apart(self, window: Window, rows: Sequence[TokenRow], kinds: Sequence[Kind]) -> str:
        """How far states with and without sharing are apart, if that is too far."""
        plain, shared = (self._states(window, forest(rows, some)) for some in ((), kinds))
        for site, wanted in plain.items():
            apart = (shared[site] - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-9)
            if not bool((apart <= TOLERANCES.get(self.passes.model.dtype, TOLERANCE)).all()):
                return f"states at {site} came out {float(apart.max()):.2g} of their length away"
        return ""

    def _states(self, window: Window, trees: Sequence[Node]) -> dict[Site, Float[Tensor, "t d"]]:
        """What is read at each site, by prompt."""
        found = {site: [torch.empty(0)] * len(window.prompts) for site in window.reading.sites}
        for piece in self.passes.run(window, trees):
            for site, states in piece.states.items():
                for i, part in zip(piece.prompts, states.split(piece.counts), strict=True):
                    found[site][i] = part
        return {site: torch.cat(parts) for site, parts in found.items()}


def _longer(encoded: Encoded, limit: int | None) -> Encoded:
    """The first prompt and a longer one with answers of several lengths, of its own last token."""
    num, row = encoded.prompt_length[0], encoded.rows[0]
    prompt = {name: values[:num] for name, values in row.items()}
    said = prompt["input_ids"][-1:].repeat(MORE + max(ANSWERS))
    rows = [continued(prompt, said[:n], encoded.answer_type) for n in ANSWERS]
    rows += [continued(prompt, said[: MORE + n], encoded.answer_type) for n in ANSWERS[:2]]
    lengths = [num] * len(ANSWERS) + [num + MORE] * 2
    within = [i for i, made in enumerate(rows) if limit is None or len(made["input_ids"]) <= limit]
    return replace(
        encoded,
        rows=[rows[i] for i in within],
        prompt_length=[lengths[i] for i in within],
        processed=[],
    )


def _sample(rows: Sequence[TokenRow], kind: Kind, kinds: Sequence[Kind]) -> list[int]:
    """A few prompts that would share what `kind` says; none if no prompts would."""
    for tree in forest(rows, kinds):
        of: dict[int, dict[tuple[int, ...], int]] = {}
        for i in tree.members:
            of.setdefault(rows[i].prompt, {}).setdefault(rows[i].ids, i)
        if tree.children and (len(of) > 1) == (kind == "header"):
            few = [[*distinct.values()][:2] for distinct in [*of.values()][:FEW]]
            return [i for some in few for i in some]
    return []

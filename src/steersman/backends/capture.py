"""Reads prompts: windows, what their prompts share, and the proof that sharing changes nothing."""

import warnings
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from steersman.backends.engine import Piece, Reading
from steersman.backends.forest import Kind, Node, TokenRow, forest
from steersman.backends.passes import Passes, Window, how_of
from steersman.backends.reading import Parts, interval
from steersman.core.types import Prompt
from steersman.data.images import image_hash
from steersman.models.chat import Encoded
from steersman.models.halves import FAILURES

WINDOW = 1024  # prompts that are encoded and sorted together
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
TOLERANCE = 5e-2  # of the norm of a state, in half precision
PROVED_ON = 2  # prompts, with two completions each


class SharingWarning(UserWarning):
    """Prompts of a model are read one by one, without what they have in common."""


@dataclass
class Capture:
    """Reads prompts of one model.

    What prompts have in common is run once. Whether that gives this model's states is tried on the
    first few prompts that have something in common: where it does not, whole prompts are run, and
    `notes` say so.

    Attributes:
        image_token: the id that stands for a piece of an image, if there is one.
        proved: by what is shared, whether the states are those of whole prompts.
    """

    passes: Passes
    image_token: int | None
    notes: list[str] = field(default_factory=list)
    proved: dict[Kind, bool] = field(default_factory=dict)

    def windows(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Indices of all prompts, in parts: those with much in common side by side.

        A window of prompts with images has as many images as fit into one pass.

        Raises:
            RecipeError: the model cannot read the first prompt with an image.
        """
        made: list[list[int]] = []
        for with_images in (False, True):
            picked = [i for i, p in enumerate(prompts) if bool(p.images) == with_images]
            if picked:
                most = self._images_at_once(prompts[picked[0]]) if with_images else len(picked)
                made += _windows([prompts[i] for i in picked], picked, most)
        return made

    def read(
        self,
        prompts: Sequence[Prompt],
        windows: Iterable[Sequence[int]],
        reading: Reading,
        known: Collection[int] = (),
    ) -> Iterator[Piece]:
        """As `Engine.read`.

        Raises:
            RecipeError: a span has no tokens.
            ModelError: a site did not run, or memory does not suffice for one prompt.
        """
        known = frozenset(known)
        for indices in windows:
            if known.issuperset(indices):
                continue
            local = frozenset(n for n, i in enumerate(indices) if i in known)
            for piece in self._window([prompts[i] for i in indices], reading, local):
                yield piece._replace(prompts=tuple(indices[n] for n in piece.prompts))

    def _window(
        self, prompts: Sequence[Prompt], reading: Reading, known: Collection[int]
    ) -> Iterator[Piece]:
        images = [_images(p) for p in prompts]
        encoded = self.passes.chat.rows(prompts, same=images)
        rows = _token_rows(prompts, encoded, images, self.image_token)
        trees = forest(rows, self._allowed(prompts, reading, rows))
        yield from self.passes.run(_opened(prompts, encoded, reading, known), trees)

    def _allowed(
        self, prompts: Sequence[Prompt], reading: Reading, rows: Sequence[TokenRow]
    ) -> list[Kind]:
        """What may be shared by prompts; proves it where there is something to share."""
        if max(site.depth for site in reading.sites) == (0, 0):
            return []  # no block is run at all
        kinds: list[Kind] = []
        for kind in ("completions", "header"):
            if kind not in self.proved and (sample := _sample(rows, kind, [*kinds, kind])):
                self._prove(kind, [prompts[i] for i in sample], reading, [*kinds, kind])
            if self.proved.get(kind):
                kinds.append(kind)
        return kinds

    def _prove(
        self, kind: Kind, prompts: Sequence[Prompt], reading: Reading, kinds: Sequence[Kind]
    ) -> None:
        """Reads some prompts with and without sharing, and remembers whether both agree."""
        images = [_images(p) for p in prompts]
        encoded = self.passes.chat.rows(prompts, same=images)
        rows = _token_rows(prompts, encoded, images, self.image_token)

        def states(trees: Sequence[Node]) -> torch.Tensor:
            window = _opened(prompts, encoded, reading, ())
            whole = [torch.empty(0)] * len(prompts)
            for piece in self.passes.run(window, trees):
                side = torch.cat([s.flatten(1) for s in piece.states.values()], dim=1)
                for i, part in zip(piece.prompts, side.split(piece.counts), strict=True):
                    whole[i] = part
            return torch.cat(whole)

        plain = states(forest(rows, ()))
        why = ""
        try:
            shared = states(forest(rows, kinds))
            apart = float(((shared - plain).norm(dim=1) / plain.norm(dim=1).clamp_min(1e-9)).max())
            if not apart <= TOLERANCES.get(self.passes.model.dtype, TOLERANCE):
                why = f"states came out {apart:.2g} of their length away"
        except (*FAILURES, NotImplementedError) as error:
            why = f"it failed with {type(error).__name__}: {str(error)[:200]}"
        self.proved[kind] = not why
        if why:
            what = "the completions of a prompt" if kind == "completions" else "prompts alike"
            name = type(self.passes.model).__name__
            self.notes.append(
                f"{name} runs {what} one by one, as running what they share only once does not "
                f"give the same states: {why}. Results are right, and slower."
            )
            warnings.warn(self.notes[-1], SharingWarning, stacklevel=2)

    def _images_at_once(self, first: Prompt) -> int:
        """How many images fit into one pass, by the tokens of the first prompt that has one."""
        made = self.passes.chat.rows([replace(first, completion=None)])
        return max(1, self.passes.budget // len(made.rows[0]["input_ids"]))


def _windows(prompts: Sequence[Prompt], indices: Sequence[int], most: int) -> Iterator[list[int]]:
    """Prompts that begin alike side by side, at most `WINDOW` of them and `most` sets of images."""
    order: dict[Hashable, dict[Hashable, list[int]]] = {}
    for prompt, i in zip(prompts, indices, strict=True):
        alike = order.setdefault((_images(prompt), prompt.system), {})
        alike.setdefault((prompt.text, prompt.generation_prompt), []).append(i)
    window: list[int] = []
    pictures: set[Hashable] = set()
    for (images, _), texts in order.items():
        for members in texts.values():
            full = len(window) + len(members) > WINDOW or len({*pictures, images}) > most
            if window and full:
                yield window
                window, pictures = [], set()
            window = window + members
            pictures.add(images)
            while len(window) > WINDOW:
                yield window[:WINDOW]
                window = window[WINDOW:]
    if window:
        yield window


def _images(prompt: Prompt) -> tuple[str, ...]:
    return tuple(f"{image.mode} {image_hash(image)}" for image in prompt.images)


def _token_rows(
    prompts: Sequence[Prompt],
    encoded: Encoded,
    images: Sequence[tuple[str, ...]],
    image_token: int | None,
) -> list[TokenRow]:
    groups: dict[Hashable, int] = {}
    texts: dict[Hashable, int] = {}
    made: list[TokenRow] = []
    for i, prompt in enumerate(prompts):
        ids = tuple(encoded.rows[i]["input_ids"].tolist())
        group = (images[i], prompt.system)
        text = (*group, prompt.text, prompt.generation_prompt)
        whole = 1
        if prompt.images:
            # where nothing in the sequence stands for the image, it may be looked at by any token
            inside = [n for n, token in enumerate(ids) if token == image_token]
            whole = inside[-1] + 1 if inside else encoded.prompt_length[i]
        made.append(
            TokenRow(
                ids,
                prompt=texts.setdefault(text, len(texts)),
                group=groups.setdefault(group, len(groups)),
                whole=whole,
            )
        )
    return made


def _opened(
    prompts: Sequence[Prompt], encoded: Encoded, reading: Reading, known: Collection[int]
) -> Window:
    intervals = [
        interval(reading.position, num, len(row["input_ids"]))
        for num, row in zip(encoded.prompt_length, encoded.rows, strict=True)
    ]
    return Window(prompts, encoded, reading, intervals, Parts(how_of(reading)), known)


def _sample(rows: Sequence[TokenRow], kind: Kind, kinds: Sequence[Kind]) -> list[int]:
    """A few prompts that would share what `kind` says; none if no prompts would."""
    for tree in forest(rows, kinds):
        of: dict[int, dict[tuple[int, ...], int]] = {}
        for i in tree.members:
            of.setdefault(rows[i].prompt, {}).setdefault(rows[i].ids, i)
        if tree.children and (len(of) > 1) == (kind == "header"):
            few = [[*distinct.values()][:2] for distinct in [*of.values()][:PROVED_ON]]
            return [i for some in few for i in some]
    return []

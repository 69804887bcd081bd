"""What parts will see when they run: the prompt states of rows, where a `Read` looks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import DataError, RecipeError, nearest
from steersman.core.roles import Model
from steersman.core.types import Position, Read, Site
from steersman.data.prompts import to_prompt
from steersman.data.rows import LEAVE_ALONE, Row

CHUNK = 2048  # rows whose prompts are held at once


def read_contexts(model: Model, rows: Sequence[Row], read: Read) -> Float[Tensor, "n d"]:
    """The states that a part reading `read` will see: float32 `(n, d)`.

    Raises:
        RecipeError: what is read is no prompt token, or the model has no such site.
    """
    return read_sites(model, rows, read, [read.site])[read.site]


def read_sites(
    model: Model, rows: Sequence[Row], read: Read, sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "n d"]]:
    """The same token as `read` names, at each of `sites`, in one pass over the rows.

    Rendering without the generation prompt ends the prompt at the user's turn.

    Raises:
        RecipeError: what is read is no prompt token, or the model has no such site.
    """
    made = {site: torch.zeros(len(rows), model.spec.d_model) for site in sites}
    for start, found in _parts(model, rows, read, sites):
        for site, states in found.items():
            if states.shape[1] != made[site].shape[1]:  # heads side by side may be wider
                made[site] = torch.zeros(len(rows), states.shape[1])
            made[site][start : start + len(states)] = states
    return made


def mean_states(
    model: Model,
    rows: Sequence[Row],
    read: Read,
    sites: Sequence[Site],
    sides: Sequence[Sequence[int]],
) -> list[dict[Site, Float[Tensor, " d"]]]:
    """For each of `sides`, the mean of its rows' states at every site; memory is flat in the rows.

    Args:
        sides: indices of rows; none is empty.

    Raises:
        RecipeError: what is read is no prompt token, or the model has no such site.
    """
    made: list[dict[Site, Tensor]] = [{} for _ in sides]
    belongs = torch.zeros(len(sides), len(rows), dtype=torch.float64)
    for i, side in enumerate(sides):
        belongs[i, list(side)] = 1 / len(side)
    for start, found in _parts(model, rows, read, sites):
        for site, states in found.items():
            share = belongs[:, start : start + len(states)] @ states.double()
            for means, more in zip(made, share, strict=True):
                means[site] = means.get(site, 0) + more
    return [{site: mean.float() for site, mean in means.items()} for means in made]


def _parts(
    model: Model, rows: Sequence[Row], read: Read, sites: Sequence[Site]
) -> Iterator[tuple[int, dict[Site, Float[Tensor, "n d"]]]]:
    """The states of `CHUNK` rows at a time, and the index of the first of them."""
    if read.offset >= 0:
        raise RecipeError(
            f"A read has the offset {read.offset}, a generated token; what is read must be a "
            "prompt token. Write -1 for the last one."
        )
    position = Position("prompt", "last", skip_last=-1 - read.offset)
    for start in range(0, len(rows), CHUNK):
        prompts = [
            replace(to_prompt(row), generation_prompt=read.generation_prompt)
            for row in rows[start : start + CHUNK]
        ]
        found = model.capture(prompts, sites, position)
        yield start, {site: found[site] for site in sites}


def two_sides(rows: Sequence[Row], behaviours: Sequence[str] = ()) -> tuple[list[int], list[int]]:
    """Indices of the rows to be steered, and of those to be left alone.

    Args:
        behaviours: only rows of these are steered, and every other one is left alone; empty
            means every behaviour but "none".

    Raises:
        DataError: one side is empty.
    """

    known = {row.behaviour for row in rows}
    for name in behaviours:
        if rows and name not in known:
            raise DataError(
                f"No row has the behaviour {name!r}.{nearest(name, known)} Correct the recipe, or "
                "the rows."
            )
    for name in known - {*behaviours, LEAVE_ALONE}:
        if close := get_close_matches(name, behaviours, n=1, cutoff=0.85):
            raise DataError(
                f"Rows have the behaviour {name!r}, and the recipe steers {close[0]!r}. Is one of "
                "the two misspelt? Give them one name, or names that are less alike."
            )

    def steered(row: Row) -> bool:
        return row.behaviour in behaviours if behaviours else row.behaviour != LEAVE_ALONE

    first = [i for i, row in enumerate(rows) if steered(row)]
    second = [i for i, row in enumerate(rows) if not steered(row)]
    if not first or not second:
        wanted = f"the behaviour {' or '.join(behaviours)}" if behaviours else "a behaviour"
        raise DataError(
            f"Rows with {wanted} and rows to be left alone are both needed, but all {len(rows)} "
            "rows are of one kind. Add rows of the other kind."
        )
    return first, second

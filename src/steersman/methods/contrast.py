"""Contrast vectors: what the hidden state gains when the answer is the wanted one.

For a query X and two completions of it, L2S / P2S (arXiv:2508.12815, Eq. 5) takes

    z_X = h(X, positive completion) - h(X, negative completion)

at one site, read at the last completion token (safety) or averaged over the completion
(hallucination). Which completions, which token and which template are data of the recipe.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import DataError, RecipeError, nearest
from steersman.core.roles import Model
from steersman.core.types import Position, Prompt, Site
from steersman.data.contrast import Contrast, pair
from steersman.data.rows import LEAVE_ALONE, Row

CHUNK = 2048  # rows whose prompts are held at once


@dataclass(frozen=True)
class ContrastRule:
    """How the two prompts of a contrast are built and where they are read.

    Attributes:
        behaviours: the contrast of each behaviour; rows of the behaviour "none" are left alone
            and have the zero vector.
        position: which completion tokens are read.
        position_of: another position for some behaviours (the released Qwen2-VL safety nets).
        close_turn: whether completions are rendered as finished assistant turns, which moves the
            last token behind the template's end of turn (the released L2S safety nets).
        wrong: the wrong answer to each answer, for `{wrong}` in a template.
        continue_tokens: tokens that the model adds to each forced completion by itself before it
            is read (the paper's hallucination recipe: up to 100, sampled).
        continue_temperature: of that continuation.
        norms: "match" scales the vectors of each behaviour to the mean norm of the first one, by
            factors from the fit rows alone; "keep" leaves them.
        norm_groups: behaviours whose norms are taken together, by a common name (the released
            code joins legal and financial).
    """

    behaviours: Mapping[str, Contrast]
    position: Position = Position("completion", "last")
    position_of: Mapping[str, Position] = field(default_factory=dict)
    close_turn: bool = False
    wrong: Mapping[str, str] = field(default_factory=lambda: {"yes": "no", "no": "yes"})
    continue_tokens: int = 0
    continue_temperature: float = 0.0
    norms: Literal["match", "keep"] = "match"
    norm_groups: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.behaviours or LEAVE_ALONE in self.behaviours:
            raise RecipeError(
                f"contrasts.behaviours names {sorted(self.behaviours)}. Give at least one "
                f'behaviour with its contrast; "{LEAVE_ALONE}" needs none.'
            )

    def only(self, behaviour: str) -> "ContrastRule":
        """The same rule with one behaviour's contrast for every steered row (Mean-S(BA))."""
        if behaviour not in self.behaviours:
            raise RecipeError(
                f"There is no behaviour {behaviour!r}.{nearest(behaviour, self.behaviours)}"
            )
        chosen = self.behaviours[behaviour]
        return replace(
            self,
            behaviours=dict.fromkeys(self.behaviours, chosen),
            position=self.position_of.get(behaviour, self.position),
            position_of={},
        )


class Part(NamedTuple):
    """States of both completions of some rows, by site."""

    rows: list[int]
    positive: Mapping[Site, Float[Tensor, "n d"]]
    negative: Mapping[Site, Float[Tensor, "n d"]]


def contrast_parts(
    model: Model, rule: ContrastRule, rows: Sequence[Row], sites: Sequence[Site]
) -> Iterator[Part]:
    """The states of both completions of every row, `CHUNK` rows at a time, those read alike first.

    Raises:
        DataError: a row has a behaviour that the rule does not know, or is to be left alone.
    """
    alike: dict[Position, list[int]] = {}
    for i, row in enumerate(rows):
        position = rule.position_of.get(row.behaviour, rule.position)
        alike.setdefault(position, []).append(i)
    for position, chosen in alike.items():
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            positive, negative = _prompts(model, rule, [rows[i] for i in part])
            both = model.capture([*positive, *negative], sites, position)
            yield Part(
                part,
                {site: both[site][: len(part)] for site in sites},
                {site: both[site][len(part) :] for site in sites},
            )


def contrast_vectors(
    model: Model, rule: ContrastRule, rows: Sequence[Row], sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "n d"]]:
    """z of every row at every site, norms as they are; zero for rows to be left alone.

    Raises:
        DataError: a row has a behaviour that the rule does not know.
    """
    steered = [i for i, row in enumerate(rows) if row.behaviour != LEAVE_ALONE]
    made = {site: torch.zeros(len(rows), model.spec.d_model) for site in sites}
    for part in contrast_parts(model, rule, [rows[i] for i in steered], sites):
        at = [steered[i] for i in part.rows]
        for site in sites:
            z = part.positive[site] - part.negative[site]
            if z.shape[1] != made[site].shape[1]:  # heads side by side may be wider
                made[site] = torch.zeros(len(rows), z.shape[1])
            made[site][at] = z
    return made


def contrast_states(
    model: Model, rule: ContrastRule, rows: Sequence[Row], sites: Sequence[Site]
) -> dict[Site, tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]]:
    """The states of the positive and of the negative completion of every row, at every site.

    Raises:
        DataError: a row has a behaviour that the rule does not know, or is to be left alone.
    """
    width = model.spec.d_model if not rows else 0
    made = {site: (torch.zeros(0, width), torch.zeros(0, width)) for site in sites}
    for part in contrast_parts(model, rule, rows, sites):
        for site in sites:
            sides = (part.positive[site], part.negative[site])
            if len(made[site][0]) != len(rows):
                shape = (len(rows), sides[0].shape[1])
                made[site] = (torch.zeros(shape), torch.zeros(shape))
            for whole, side in zip(made[site], sides, strict=True):
                whole[part.rows] = side
    return made


class ContrastSums:
    """Sums of contrast vectors at one site, from which their means come.

    Memory does not grow with the rows: of each behaviour there is the sum of z, of |z|, and the
    number of rows. In float64.
    """

    def __init__(self) -> None:
        self.z: dict[str, Float[Tensor, " d"]] = {}
        self.norms: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, behaviours: Sequence[str], z: Float[Tensor, "n d"]) -> None:
        """Counts some more rows."""
        for name in dict.fromkeys(behaviours):
            mine = z[[b == name for b in behaviours]].double()
            self.z[name] = self.z.get(name, 0) + mine.sum(0)
            self.norms[name] = self.norms.get(name, 0.0) + float(mine.norm(dim=1).sum())
            self.counts[name] = self.counts.get(name, 0) + len(mine)

    def mean(self, rule: ContrastRule | None = None) -> Float[Tensor, " d"]:
        """The mean of z over all rows, with norms matched as the rule says, or as they are."""
        factors = {} if rule is None else _factors(rule, self.norms, self.counts)
        scaled_sums = [z * factors.get(name, 1.0) for name, z in self.z.items()]
        return (torch.stack(scaled_sums).sum(0) / sum(self.counts.values())).float()


def contrast_sums(
    model: Model, rule: ContrastRule, rows: Sequence[Row], sites: Sequence[Site]
) -> dict[Site, ContrastSums]:
    """The sums over all rows, each of which is to be steered, at every site.

    Raises:
        DataError: a row has a behaviour that the rule does not know, or is to be left alone.
    """
    made = {site: ContrastSums() for site in sites}
    for part in contrast_parts(model, rule, rows, sites):
        behaviours = [rows[i].behaviour for i in part.rows]
        for site in sites:
            made[site].add(behaviours, part.positive[site] - part.negative[site])
    return made


def mean_contrast(
    model: Model,
    rule: ContrastRule,
    rows: Sequence[Row],
    sites: Sequence[Site],
    behaviour: str | None = None,
) -> dict[Site, Float[Tensor, " d"]]:
    """The mean contrast vector of the steered rows at every site; memory is flat in the rows.

    Args:
        behaviour: use its contrast for every steered row (one thing only); None gives each row
            its own, with norms matched as the rule says.

    Raises:
        DataError: no row is steered, one has a behaviour that the rule does not know, or the
            vectors are zero at every site.
    """
    wanted = rule if behaviour is None else rule.only(behaviour)
    steered = [rows[i] for i in steered_rows(rows)]
    sums = contrast_sums(model, wanted, steered, sites)
    means = {site: sums[site].mean(wanted) for site in sites}
    check_mean(means)
    return means


def check_mean(means: Mapping[Site, Float[Tensor, " d"]]) -> None:
    """Refuses mean contrast vectors that steer nothing.

    Raises:
        DataError: they are zero at every site.
    """
    if not any(bool(vector.any()) for vector in means.values()):
        raise DataError(
            f"The mean contrast vector is zero at {', '.join(map(str, means))}: both completions "
            "give the same state there, so there is nothing to steer by. Read another token "
            "(contrasts.position), or a later site."
        )


def norm_factors(
    rule: ContrastRule, rows: Sequence[Row], z: Float[Tensor, "n d"]
) -> dict[str, float]:
    """By behaviour, what scales its vectors to the mean norm of the first behaviour present.

    L2S's released code does so across its behaviours, but over all rows, test included; here `z`
    is of the fit rows alone.
    """
    norms: dict[str, float] = {}
    counts: dict[str, int] = {}
    for row, norm in zip(rows, z.norm(dim=1).tolist(), strict=True):
        norms[row.behaviour] = norms.get(row.behaviour, 0.0) + norm
        counts[row.behaviour] = counts.get(row.behaviour, 0) + 1
    return _factors(rule, norms, counts)


def _factors(
    rule: ContrastRule, norms: Mapping[str, float], counts: Mapping[str, int]
) -> dict[str, float]:
    """The factors from each behaviour's sum of norms and number of rows."""
    group_of = {name: rule.norm_groups.get(name, name) for name in rule.behaviours}
    means: dict[str, float] = {}
    for group in dict.fromkeys(group_of.values()):
        mine = [b for b, g in group_of.items() if g == group and b in counts]
        if total := sum(norms[b] for b in mine):
            means[group] = total / sum(counts[b] for b in mine)
    if rule.norms == "keep" or not means:
        return dict.fromkeys(rule.behaviours, 1.0)
    first = next(iter(means.values()))
    return {b: first / means[g] if g in means else 1.0 for b, g in group_of.items()}


def scaled(
    rows: Sequence[Row], z: Float[Tensor, "n d"], factors: Mapping[str, float]
) -> Float[Tensor, "n d"]:
    """`z` with each row scaled by its behaviour's factor; `z` itself where all factors are 1."""
    if all(factor == 1 for factor in factors.values()):
        return z
    return z * torch.tensor([factors.get(row.behaviour, 1.0) for row in rows])[:, None]


def steered_rows(rows: Sequence[Row]) -> list[int]:
    """Indices of the rows that are not to be left alone.

    Raises:
        DataError: there are none.
    """
    chosen = [i for i, row in enumerate(rows) if row.behaviour != LEAVE_ALONE]
    if not chosen:
        raise DataError(
            f'Every one of the {len(rows)} rows has the behaviour "{LEAVE_ALONE}": there is '
            "nothing to learn from. Give rows with a behaviour that the recipe names."
        )
    return chosen


def _prompts(
    model: Model, rule: ContrastRule, rows: Sequence[Row]
) -> tuple[list[Prompt], list[Prompt]]:
    positive, negative = [], []
    for row in rows:
        if row.behaviour not in rule.behaviours:
            raise DataError(
                f"Row {row.id!r} has the behaviour {row.behaviour!r}, for which the recipe has no "
                f"contrast.{nearest(row.behaviour, [*rule.behaviours, LEAVE_ALONE])}"
            )
        contrast = rule.behaviours[row.behaviour]
        p, n = pair(row, contrast, close_turn=rule.close_turn, wrong=rule.wrong)
        positive.append(p)
        negative.append(n)
    if rule.continue_tokens:
        positive, negative = (_continued(model, rule, side) for side in (positive, negative))
    return positive, negative


def _continued(model: Model, rule: ContrastRule, prompts: list[Prompt]) -> list[Prompt]:
    more = model.complete(
        prompts, rule.continue_tokens, temperature=rule.continue_temperature, seed=0
    )
    return [
        replace(p, completion=f"{p.completion} {text}".strip())
        for p, text in zip(prompts, more, strict=True)
    ]

"""Which layer a method reads: the one with the best score over pairs of prompts, with its error.

Two rows are a pair if they have the same label `pair`, one to be steered and one to be left alone.

    se^2 = (b - 1) / b * sum_i (score without block i - their mean)^2       (delete-block jackknife)
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.roles import LayerScore, Model
from steersman.core.types import Read, Site
from steersman.data.rows import LEAVE_ALONE, Row
from steersman.methods.contexts import read_sites, two_sides
from steersman.methods.groups import as_key, image_key, label_keys, linked

CHUNK = 512  # pairs whose states are held at once
MAX_BLOCKS = 50
S = TypeVar("S")


class Pair(NamedTuple):
    """Two rows by index, and the value of the label that joins them."""

    positive: int
    negative: int
    name: str


class Interval(NamedTuple):
    """A 95% interval; None where there are too few clusters to tell."""

    low: float | None
    high: float | None


def choose_layer(
    model: Model,
    rows: Sequence[Row],
    *,
    read: Read,
    sites: Sequence[Site],
    score: LayerScore[Any],
    pair_by: str = "pair",
    cluster_by: str = "object",
    behaviours: Sequence[str] = (),
    log: FitLog = NO_LOG,
) -> Site:
    """The site with the highest score; of equal ones, the first.

    All layers are read in one pass over the prompts, `CHUNK` pairs at a time, so that memory does
    not grow with the pairs (unless the score itself keeps them).

    AutoSteer's "layer i" is the residual stream that enters block i: Site(i, "resid_pre"),
    transformers' hidden_states[i]. Site(i, "resid_post") is one block later.

    Intervals are Student's, from a jackknife over at most `MAX_BLOCKS` blocks of clusters. They do
    not account for the choice: the best of many layers is a little flattered.

    Args:
        read: which token; its own site does not matter.
        cluster_by: label of the row to steer that makes pairs alike, and one cluster. Without it,
            pairs are alike that share a picture or their own label. A cluster is never cut.
        behaviours: rows of these are to be steered; empty means every behaviour but "none".

    Raises:
        RecipeError: there is no such site, or none is given.
        DataError: there are no two pairs.
    """
    if not sites:
        raise RecipeError("No layers were given to choose from. Name at least one.")
    model.spec.check(sites, "The choice of a layer")
    pairs = row_pairs(rows, pair_by, behaviours)
    cluster = _clusters(rows, pairs, cluster_by)
    block = _blocks(cluster)
    found = _scores(model, rows, pairs, block, read=read, sites=sites, score=score)
    ranked = sorted(found, key=lambda site: _order(found[site][0]), reverse=True)
    _record(log, score.part_name, sites=list(found), found=found, ranked=ranked, cluster=cluster)
    return ranked[0]


def row_pairs(rows: Sequence[Row], pair_by: str, behaviours: Sequence[str] = ()) -> list[Pair]:
    """Every row to steer with every row to leave alone that has the same label.

    Where rows of several behaviours share the label, only those of "none" are left alone, if there
    are any (with `behaviours`, others might be).

    Raises:
        DataError: there are no two pairs.
    """
    steered = set(two_sides(rows, behaviours)[0])
    together: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if pair_by in row.labels:
            together.setdefault(as_key(row.labels[pair_by]), []).append(i)
    made: list[Pair] = []
    for name, members in together.items():
        others = [i for i in members if i not in steered]
        alone = [i for i in others if rows[i].behaviour == LEAVE_ALONE] or others
        made += [Pair(p, n, name) for p in members if p in steered for n in alone]
    if len(made) < 2:
        raise DataError(
            f"Of {len(rows)} rows, {sum(map(len, together.values()))} have the label {pair_by!r}, "
            f"and they make {len(made)} pairs; two are needed to score layers. Write the same "
            f"labels.{pair_by} on a row to steer and on its counterpart to leave alone, another "
            "value for each pair; or name the layer in the recipe."
        )
    return made


def jackknife(value: float, without: Float[Tensor, " b"]) -> Interval:
    """Student's 95% interval of `value`, from the values without each of b blocks."""
    num = len(without)
    if num < 2 or not bool(without.isfinite().all()):
        return Interval(None, None)
    error = math.sqrt((num - 1) / num * float((without - without.mean()).pow(2).sum()))
    reach = float(stats.t.ppf(0.975, num - 1)) * error
    return Interval(value - reach, value + reach)


def _clusters(rows: Sequence[Row], pairs: Sequence[Pair], cluster_by: str) -> list[int]:
    def keys(pair: Pair) -> set[tuple[str, str]]:
        row = rows[pair.positive]
        return label_keys(row, (cluster_by,)) or {*image_key(row), ("", pair.name)}

    return linked([keys(pair) for pair in pairs])


def _blocks(cluster: Sequence[int]) -> Tensor:
    """The block of each pair: clusters, the largest first, are dealt in turn."""
    size = torch.tensor(cluster).bincount()
    place = torch.empty_like(size)
    place[size.argsort(descending=True, stable=True)] = torch.arange(len(size))
    return (place % MAX_BLOCKS)[torch.tensor(cluster)]


def _scores(
    model: Model,
    rows: Sequence[Row],
    pairs: Sequence[Pair],
    block: Tensor,
    *,
    read: Read,
    sites: Sequence[Site],
    score: LayerScore[S],
) -> dict[Site, tuple[float, Tensor]]:
    """By site, the score and the scores without each block."""
    num_blocks = int(block.max()) + 1
    states: dict[Site, S] = {}
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        used = list(dict.fromkeys(i for p in part for i in (p.positive, p.negative)))
        at = {row: i for i, row in enumerate(used)}
        found = read_sites(model, [rows[i] for i in used], read, list(sites))
        positive, negative = [at[p.positive] for p in part], [at[p.negative] for p in part]
        for site, x in found.items():
            state = states[site] if site in states else score.init(x.shape[1], num_blocks)
            states[site] = score.update(
                state, x[positive], x[negative], block[start : start + CHUNK]
            )
    return {site: score.finish(state) for site, state in states.items()}


def _record(
    log: FitLog,
    score: str,
    *,
    sites: Sequence[Site],
    found: dict[Site, tuple[float, Tensor]],
    ranked: Sequence[Site],
    cluster: Sequence[int],
) -> None:
    each = [jackknife(*found[site]) for site in sites]
    first, second = ranked[0], ranked[1] if len(ranked) > 1 else None
    gap, between = None, Interval(None, None)
    if second is not None:
        (a, without_a), (b, without_b) = found[first], found[second]
        gap, between = a - b, jackknife(a - b, without_a - without_b)
    log.add(
        "layer_scores",
        score=score,
        point=", ".join(dict.fromkeys(site.point for site in sites)),
        layers=[site.layer for site in sites],
        value=[found[site][0] for site in sites],
        low=[interval.low for interval in each],
        high=[interval.high for interval in each],
        chosen=first.layer,
        runner_up=second and second.layer,
        difference=gap,
        difference_low=between.low,
        difference_high=between.high,
        distinct=between.low is not None and between.low > 0,
        num_pairs=len(cluster),
        num_clusters=len(set(cluster)),
    )


def _order(value: float) -> float:
    return -math.inf if math.isnan(value) else value

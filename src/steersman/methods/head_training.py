"""Trains a linear edit of the state before the output head, on answers that are given to it.

h' = h + strength * W h,   W = I + D (full) or I + left right (of a given rank)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from steersman.core.errors import DataError, RecipeError, nearest
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.roles import Model
from steersman.core.types import AnswerStates, Site
from steersman.data.contrast import check_completion, forced
from steersman.data.prompts import to_prompt
from steersman.data.rows import LEAVE_ALONE, Row
from steersman.methods.contrast import CHUNK
from steersman.synthesizers.linear_field import LinearField, LowRankField

EVALUATED = 1024  # tokens whose logits are held at once


@dataclass(frozen=True)
class HeadTraining:
    """Hyperparameters of the head and its training. The loss of a step is

        mean CE(logits(h'), next token)  over tokens of the given answers
        + retention * mean KL(base || edited)  over tokens of the model's own benign answers

    Attributes:
        rank: of the learned part; 0 learns a full matrix (the paper's).
        retention: weight of the benign rows; 0 leaves them out (the paper's).
        retention_rows: how many benign rows are answered at most, drawn by the seed.
        max_new_tokens: length of their answers.
        close_turn: the end of the turn is learned, and retained, too.
        batch_size: tokens of each of the two kinds in a step.
        weight_decay: of the learned part, so W decays towards the identity.
        validation: share of the rows of each kind held out to choose the epoch; 0 keeps the last.
    """

    rank: int = 0
    retention: float = 1.0
    retention_rows: int = 512
    max_new_tokens: int = 32
    close_turn: bool = True
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    validation: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.epochs, self.batch_size, self.max_new_tokens, self.retention_rows)
        if min(counts) < 1 or self.learning_rate <= 0:
            raise RecipeError(
                "head: epochs, batch_size, max_new_tokens and retention_rows must be 1 or more, "
                "learning_rate above 0."
            )
        if min(self.rank, self.retention, self.weight_decay, self.seed) < 0:
            raise RecipeError(
                "head: rank, retention, weight_decay and seed must be 0 or more; retention 0 "
                "trains without benign rows."
            )
        if not 0 <= self.validation < 1:
            raise RecipeError(f"head.validation is {self.validation}; it must be in [0, 1).")


class Head(nn.Module):
    """h + strength * (h + D h); lives only while it is trained."""

    def __init__(self, d: int, plan: HeadTraining, strength: float, device: torch.device) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(plan.seed)
        right = torch.randn(plan.rank, d, generator=draw) / d**0.5
        self.left = nn.Parameter(torch.zeros(d, plan.rank or d, device=device))
        self.right = nn.Parameter(right.to(device)) if plan.rank else None
        self.strength = strength

    def forward(self, h: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
        learned = (h if self.right is None else h @ self.right.T) @ self.left.T
        return h + self.strength * (h + learned)

    def field(self) -> LinearField | LowRankField:
        """The part that makes the edit when a model runs."""
        left = self.left.detach().cpu()
        if self.right is None:
            return LinearField(matrix=torch.eye(len(left)) + left)
        return LowRankField(left=left, right=self.right.detach().cpu())


class _Batch(NamedTuple):
    """Tokens of one kind: the states before them, and which tokens they are."""

    states: Float[Tensor, "t d"]
    tokens: Int[Tensor, " t"]


class _Side(NamedTuple):
    """The two kinds of tokens of one side of the split; benign ones may be none."""

    said: _Batch
    benign: _Batch


def train_head(
    plan: HeadTraining,
    model: Model,
    rows: Sequence[Row],
    *,
    targets: Mapping[str, str],
    strength: float,
    log: FitLog = NO_LOG,
) -> LinearField | LowRankField:
    """The synthesizer that, added with `strength`, makes the model say the targets.

    Args:
        targets: what to say, by behaviour; rows of any other behaviour are benign.

    Raises:
        DataError: a behaviour has no rows, or there are no benign answers to retain.
    """
    _check_rows(plan, rows, targets)
    said = _taught(plan, model, [r for r in rows if r.behaviour in targets], targets)
    draw = torch.Generator().manual_seed(plan.seed)
    kept = AnswerStates(said.states[:0], said.next_token[:0], said.row[:0])
    if plan.retention:
        benign = [row for row in rows if row.behaviour not in targets]
        chosen = torch.randperm(len(benign), generator=draw)[: plan.retention_rows].tolist()
        kept = _own_answers(plan, model, [benign[i] for i in chosen])
    first, second = (_split(answers, plan.validation, draw) for answers in (said, kept))
    device = model.logits(said.states[:1]).device
    head = Head(said.states.shape[1], plan, strength, device)
    _optimise(plan, model, head, [_Side(a, b) for a, b in zip(first, second, strict=True)], log)
    return head.field()


def check_head(site: Site, targets: Mapping[str, str], who: str) -> None:
    """Refuses a site or targets that no head can have.

    Raises:
        RecipeError: the site is not `head_in`, or a target is empty or has unknown placeholders.
    """
    if site.point != "head_in":
        raise RecipeError(
            f"{who} writes the state before the output head, but its site is {site}. Write "
            'point = "head_in" and the number of the last layer.'
        )
    if not targets or LEAVE_ALONE in targets:
        raise RecipeError(
            f"{who}: targets are given for {sorted(targets)}. Give what to say for at least one "
            f'behaviour; "{LEAVE_ALONE}" has none.'
        )
    for behaviour, text in targets.items():
        check_completion(text, f"target of {behaviour!r}")


def _check_rows(plan: HeadTraining, rows: Sequence[Row], targets: Mapping[str, str]) -> None:
    found = {row.behaviour for row in rows}
    for behaviour in targets:
        if behaviour not in found:
            raise DataError(
                f"There is a target for {behaviour!r}, but no row has that behaviour."
                f"{nearest(behaviour, found)} Correct the target, or add rows."
            )
    if plan.retention and found <= set(targets):
        raise DataError(
            f"Every one of the {len(rows)} rows has a target, so there is no answer to retain. "
            "Add rows to be left alone, or set head.retention to 0."
        )


def _taught(
    plan: HeadTraining, model: Model, rows: Sequence[Row], targets: Mapping[str, str]
) -> AnswerStates:
    """What the model sees while it says the targets."""
    made: list[AnswerStates] = []
    for start in range(0, len(rows), CHUNK):
        some = model.answer_states(
            [
                forced(row, targets[row.behaviour], close_turn=plan.close_turn)
                for row in rows[start : start + CHUNK]
            ]
        )
        made.append(replace(some, row=some.row + start))
    return AnswerStates(
        torch.cat([a.states for a in made]),
        torch.cat([a.next_token for a in made]),
        torch.cat([a.row for a in made]),
    )


def _own_answers(plan: HeadTraining, model: Model, rows: Sequence[Row]) -> AnswerStates:
    """What the model sees while it says its own answers."""
    prompts = [to_prompt(row) for row in rows]
    answers = model.complete(prompts, plan.max_new_tokens)
    spoken = [
        replace(prompt, completion=text, close_turn=plan.close_turn)
        for prompt, text in zip(prompts, answers, strict=True)
        if text
    ]
    if not spoken:
        raise DataError(
            f"The model answers none of {len(rows)} benign rows, so there is no answer to retain. "
            "Give rows that it answers, or set head.retention to 0."
        )
    return model.answer_states(spoken)


def _split(
    answers: AnswerStates, validation: float, draw: torch.Generator
) -> tuple[_Batch, _Batch]:
    """Tokens to fit on and tokens held out, by row."""
    rows = answers.row.unique()
    order = rows[torch.randperm(len(rows), generator=draw)]
    num = min(round(validation * len(rows)), max(0, len(rows) - 1))
    held = torch.isin(answers.row, order[:num])
    return (
        _Batch(answers.states[~held], answers.next_token[~held]),
        _Batch(answers.states[held], answers.next_token[held]),
    )


def _optimise(
    plan: HeadTraining, model: Model, head: Head, sides: Sequence[_Side], log: FitLog
) -> None:
    """Trains on the first side and chooses the epoch on the second."""
    fit, held = sides
    draw = torch.Generator().manual_seed(plan.seed)
    optimiser = torch.optim.AdamW(
        head.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    best, epoch_kept, kept = float("inf"), plan.epochs - 1, {}
    train, validation = [], []
    for epoch in range(plan.epochs):
        total, order = 0.0, torch.randperm(len(fit.said.tokens), generator=draw)
        for chosen in order.split(plan.batch_size):
            step = _Side(_at(fit.said, chosen), _drawn(fit.benign, plan.batch_size, draw))
            loss = _loss(plan, model, head, step)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(chosen) / len(order)
        train.append(total)
        if len(held.said.tokens):
            now = _mean_loss(plan, model, head, held)
            validation.append(now)
            if now < best:
                best, epoch_kept = now, epoch
                kept = {k: v.clone() for k, v in head.state_dict().items()}
    if kept:
        head.load_state_dict(kept)
    log.add("training", what="head", train=train, validation=validation, kept=epoch_kept)


def _loss(plan: HeadTraining, model: Model, head: Head, side: _Side) -> Float[Tensor, ""]:
    device = head.left.device
    loss = torch.zeros((), device=device)
    if len(side.said.tokens):
        logits = model.logits(head(side.said.states.to(device)))
        loss = loss + F.cross_entropy(logits, side.said.tokens.to(device))
    if len(side.benign.tokens):
        h = side.benign.states.to(device)
        with torch.no_grad():
            base = model.logits(h).log_softmax(-1)
        edited = model.logits(head(h)).log_softmax(-1)
        kl = F.kl_div(edited, base, reduction="batchmean", log_target=True)
        loss = loss + plan.retention * kl
    return loss


def _mean_loss(plan: HeadTraining, model: Model, head: Head, side: _Side) -> float:
    """The loss over all tokens of a side, some at a time."""
    nothing = _at(side.said, torch.zeros(0, dtype=torch.long))
    total = 0.0
    with torch.no_grad():
        for batch, only in ((side.said, "said"), (side.benign, "benign")):
            for start in range(0, len(batch.tokens), EVALUATED):
                chosen = torch.arange(len(batch.tokens))[start : start + EVALUATED]
                some = _Side(nothing, nothing)._replace(**{only: _at(batch, chosen)})
                total += float(_loss(plan, model, head, some)) * len(chosen) / len(batch.tokens)
    return total


def _at(batch: _Batch, chosen: Int[Tensor, " n"]) -> _Batch:
    return _Batch(batch.states[chosen], batch.tokens[chosen])


def _drawn(batch: _Batch, size: int, draw: torch.Generator) -> _Batch:
    """Some tokens with replacement; none of none."""
    total = len(batch.tokens)
    if not total:
        return batch
    return _at(batch, torch.randint(total, (size,), generator=draw))

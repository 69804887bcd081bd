"""Folds that show how a policy does on what it was not fitted on.

Rows are told apart by a label (an object, a topic, a source). Its values are dealt to folds, those
of each behaviour evenly; a fold is fitted on the fit rows without its values, and judged on the
calibration rows that have them. What is chosen so need not be what does best on familiar rows.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import NamedTuple

from steersman.core.errors import DataError, nearest
from steersman.data.rows import LEAVE_ALONE, Dataset, Row

FOLDS = 3


class Fold(NamedTuple):
    """Rows to fit on, and rows about what these leave out."""

    fit: Dataset
    judge: Dataset


def folds(fit: Dataset, calibration: Dataset, label: str, num: int = FOLDS) -> list[Fold]:
    """The folds of one label.

    Raises:
        DataError: too few values, or a fold without rows to judge.
    """
    by_behaviour = _values(fit.rows, label)
    if not by_behaviour:
        known = {name for row in fit.rows for name in row.labels}
        raise DataError(f"{fit.source}: no row has the label {label!r}.{nearest(label, known)}")
    for behaviour, values in by_behaviour.items():
        if len(values) < num:
            raise DataError(
                f"{fit.source}: rows of the behaviour {behaviour!r} have {len(values)} values of "
                f"the label {label!r}, and {num} folds need {num}. Add rows about other ones, or "
                "take hold_out away."
            )
    made = []
    for i in range(num):
        held = {value for values in by_behaviour.values() for value in values[i::num]}
        judge = tuple(row for row in calibration.rows if row.labels.get(label) in held)
        kept = tuple(row for row in fit.rows if row.labels.get(label) not in held)
        if not judge:
            raise DataError(
                f"{calibration.source} has no row with {label} in {sorted(map(str, held))}, which "
                f"fold {i + 1} is judged by. Add some, or take hold_out away."
            )
        name = f"{fit.hash}-{label}-{i + 1}-of-{num}"
        made.append(
            Fold(
                replace(fit, rows=kept, hash=sha256(name.encode()).hexdigest()),
                replace(calibration, rows=judge, hash=f"{calibration.hash}-{label}-{i + 1}-{num}"),
            )
        )
    return made


def _values(rows: Sequence[Row], label: str) -> dict[str, list[object]]:
    """By behaviour, the values of the label in a fixed, mixed order.

    A value belongs to the behaviour that its steered rows have most often; one that is only left
    alone belongs to "none".
    """
    seen: dict[object, Counter[str]] = {}
    for row in rows:
        value = row.labels.get(label)
        if isinstance(value, str | int):
            steered = row.behaviour if row.behaviour != LEAVE_ALONE else ""
            seen.setdefault(value, Counter())[steered] += 1
    made: dict[str, list[object]] = {}
    for value, counts in seen.items():
        steered = Counter({name: n for name, n in counts.items() if name})
        behaviour = steered.most_common(1)[0][0] if steered else LEAVE_ALONE
        made.setdefault(behaviour, []).append(value)
    for values in made.values():
        values.sort(key=lambda value: sha256(str(value).encode()).hexdigest())
    return made

"""Folds that hold out what a policy is judged by."""

from dataclasses import replace

import pytest

from steersman.core.errors import DataError
from steersman.data.rows import Dataset, Row
from steersman.experiments.novel import folds

THINGS = {"harmful": ("bomb", "gun", "knife"), "none": ("cup", "hat", "key", "book")}


def rows(split: str, num: int = 3) -> Dataset:
    made = [
        Row(id=f"{split}-{b}-{t}-{i}", prompt=t, behaviour=b, labels={"object": t})
        for b, things in THINGS.items()
        for t in things
        for i in range(num)
    ]
    # A harmful thing that is asked about harmlessly does not make the thing harmless.
    made += [Row(id=f"{split}-see-{i}", prompt="see", labels={"object": "bomb"}) for i in range(9)]
    made.append(Row(id=f"{split}-bare", prompt="hello"))
    return Dataset(rows=tuple(made), meta={"split": split}, hash=split, source=split)


def test_a_fold_is_judged_by_what_it_was_not_fitted_on():
    made = folds(rows("fit"), rows("calibration"), "object")
    assert len(made) == 3
    held = []
    for fold in made:
        fitted = {r.labels.get("object") for r in fold.fit.rows}
        judged = {r.labels["object"] for r in fold.judge.rows}
        assert not fitted & judged and fitted | judged == {
            None,
            *THINGS["harmful"],
            *THINGS["none"],
        }
        assert len(judged & set(THINGS["harmful"])) == 1 and judged & set(THINGS["none"])
        held += sorted(judged)
    assert sorted(held) == sorted((*THINGS["harmful"], *THINGS["none"]))
    assert len({fold.fit.hash for fold in made} | {"fit"}) == 4
    assert [f.fit.hash for f in folds(rows("fit"), rows("calibration"), "object")] == [
        f.fit.hash for f in made
    ]


def test_too_few_values_are_refused():
    with pytest.raises(DataError, match="'harmful' have 3 values of the label 'object', and 4"):
        folds(rows("fit"), rows("calibration"), "object", 4)


def test_an_unknown_label_names_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'object'"):
        folds(rows("fit"), rows("calibration"), "objct")


def test_a_fold_without_rows_to_judge_is_refused():
    calibration = rows("calibration")
    only = tuple(r for r in calibration.rows if r.labels.get("object") == "cup")
    with pytest.raises(DataError, match="calibration has no row with object in"):
        folds(rows("fit"), replace(calibration, rows=only), "object")

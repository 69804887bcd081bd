"""Choosing on calibration data, and never on what is reported."""

from collections.abc import Iterator

import pytest

from steersman.core.errors import RecipeError
from steersman.evals.choose import choose
from steersman.evals.records import Results
from steersman.evals.run import Evaluation


def evaluation(make_result, value: float, *, metric: str = "correct", split: str = "calibration"):
    row = make_result("safety", "l2s", "all", metric, value)
    return Evaluation(Results((row,)), (), split)


def test_the_highest_wins_and_of_equals_the_first(make_result) -> None:
    values = {"a": 0.5, "b": 0.7, "c": 0.7}
    choice = choose(
        ((name, evaluation(make_result, v)) for name, v in values.items()),
        suite="safety",
        split="all",
        metric="correct",
    )
    assert choice.best == "b"
    assert [name for name, _ in choice.tried] == ["a", "b", "c"]
    assert [name for name, _ in choice.ranking] == ["b", "c", "a"]


def test_attack_success_is_minimised(make_result) -> None:
    pairs = [(n, evaluation(make_result, v, metric="asr")) for n, v in (("a", 0.5), ("b", 0.1))]
    assert choose(pairs, suite="safety", split="all", metric="asr").best == "b"


def test_the_test_split_is_refused_before_more_is_measured(make_result) -> None:
    measured = []

    def candidates() -> Iterator[tuple[str, Evaluation]]:
        for name in ("a", "b"):
            measured.append(name)
            yield name, evaluation(make_result, 0.5, split="test")

    with pytest.raises(RecipeError, match="No tuning on the split that is reported"):
        choose(candidates(), suite="safety", split="all", metric="correct")
    assert measured == ["a"]


def test_nothing_to_choose_from(make_result) -> None:
    with pytest.raises(RecipeError, match="nothing to choose from"):
        choose([], suite="safety", split="all", metric="correct")
    with pytest.raises(RecipeError, match="a has 0 rows of safety/all/asr"):
        choose([("a", evaluation(make_result, 0.5))], suite="safety", split="all", metric="asr")

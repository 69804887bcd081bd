"""Comparisons on a tiny model: what is measured where, what is refused, and what is remembered."""

from dataclasses import replace

import pytest

from planted import Planted, recipe, split
from steersman.core.errors import DataError, RecipeError
from steersman.evals.records import AnswerRecord
from steersman.experiments.compare import Bench, Comparison, check, check_model, unchanged

FIT, CALIBRATION, TEST = split("fit", 0), split("calibration", 8), split("test", 16)
UTILITY = split("test", 24, "utility")
TWO_SIDES = {"positive": "yes", "negative": "no"}
SUITES = {"pope": Bench(TEST, FIT, CALIBRATION), "utility": Bench(UTILITY)}


def planted() -> Planted:
    return Planted(lambda policy: "good" in policy.steerers, FIT, CALIBRATION, TEST)


def compared(backend, recipes, **more):
    return Comparison(backend, recipes, SUITES, **more).run()


def oracle():
    return recipe("bound").override("method", "p2s")


def test_everything_is_measured_once_beside_its_baselines():
    made = compared(planted(), [recipe("good"), recipe("bad"), oracle()])
    seen = {(r.suite, r.method) for r in made.results.rows}
    fair = {"none", "prompt", "random", "good", "bad"}
    assert seen == {("pope", m) for m in (*fair, "p2s")} | {("utility", m) for m in fair}
    right = {m: made.results.find("pope", m, "all", "accuracy").value for m in fair}
    assert right["good"] == right["random"] == 1 and right["bad"] == right["none"] == 0
    assert {e.split for e in made.evaluations} == {"test"}
    assert {a.seed for a in made.answers} == {0}


def test_what_was_chosen_and_where_it_comes_from_is_kept():
    backend = planted()
    made = compared(backend, [recipe("good", "strength = [0.5, 1.0]")], seed=3)
    artifact = made.artifact("good", backend.spec, "1")
    provenance = artifact.provenance
    assert provenance["fitted_at"] == {"good": 1.0}
    assert provenance["chosen"] == {"strength": "0.5"} and provenance["seed"] == 3
    assert provenance["data_hash"] == FIT.hash and provenance["fit"] == []
    assert provenance["recipe"]["strength"] == 0.5 and provenance["method"] == "mean"
    assert provenance["metrics"]["pope: accuracy"] == 1


def test_a_killed_comparison_goes_on_from_its_answers(tmp_path):
    first, second = planted(), planted()
    one = compared(first, [recipe("good"), recipe("bad")], cache=tmp_path)
    two = compared(second, [recipe("good"), recipe("bad")], cache=tmp_path)
    assert first.asked and second.asked == [] and one.results.rows == two.results.rows


def test_unsteered_answers_are_asked_for_once():
    backend = planted()
    compared(backend, [recipe("good"), recipe("bad")])
    plain = [row.prompt for row in UTILITY.rows]
    assert backend.asked.count(plain[0]) == 4  # none, good, bad, random


def test_names_and_rows_are_checked_before_a_model_is_there():
    good = recipe("good")
    with pytest.raises(RecipeError, match=r"good.toml is called 'good', and so is good.toml"):
        check([good, good], SUITES)
    with pytest.raises(RecipeError, match="'random', and so is a baseline"):
        check([recipe("random")], SUITES)
    with pytest.raises(RecipeError, match="files are named after it"):
        check([recipe("a/b")], SUITES)
    with pytest.raises(RecipeError, match="taught by the suite 'safety'"):
        check([recipe("x", more='data = "safety"')], SUITES)
    with pytest.raises(RecipeError, match="'p2s' is measured on pope by bound.toml already"):
        check([oracle(), replace(oracle(), name="other")], SUITES)
    with pytest.raises(RecipeError, match="no recipe to compare"):
        check([], SUITES)
    with pytest.raises(DataError, match="hold the same rows"):
        check([good], {"pope": Bench(TEST, FIT, TEST)})
    with pytest.raises(DataError, match="test split, and stands where"):
        check([good], {"pope": Bench(TEST, FIT, split("test", 32))})
    with pytest.raises(DataError, match="'object' is not in the recipe"):
        check([good.override("contrasts.behaviours", {"other": TWO_SIDES})], SUITES)


def test_a_layer_that_the_model_has_not_names_the_recipe():
    with pytest.raises(RecipeError, match=r"deep.toml: .*resid_post\[7\]"):
        check_model([recipe("good"), recipe("deep", '"site.layer" = [7]')], SUITES, planted().spec)


def answer(i: int, text: str, gate: float | None) -> AnswerRecord:
    trace = {} if gate is None else {"s": {"gate": gate, "tokens_written": int(gate > 0)}}
    return AnswerRecord("pope", "m", 0, f"{i}", "?", text, "yes", "yes", True, {}, trace)


def test_unchanged_counts_the_rows_to_be_left_alone():
    rows = [replace(row, behaviour="none" if i else "object") for i, row in enumerate(TEST.rows)]
    data = replace(TEST, rows=tuple(rows))
    steered = [answer(i, t, g) for i, (t, g) in enumerate(zip("axbc", (1, 0.5, 0, 0), strict=True))]
    plain = [answer(i, t, None) for i, t in enumerate("zabc")]
    share, closed = unchanged(data, steered, plain)
    assert (share.split, share.metric, share.n) == ("benign", "unchanged", 3)
    assert share.value == pytest.approx(2 / 3)
    assert (closed.metric, closed.value, closed.n) == ("unchanged_closed", 1.0, 2)
    assert unchanged(TEST, steered, plain) == ()


def test_rows_that_were_learned_from_are_found_among_the_test_rows():
    mixed = replace(TEST, rows=(*TEST.rows[:3], replace(FIT.rows[0], id="again")), hash="other")
    with pytest.raises(DataError, match=r"1 rows \(again, ...\) ask what a row of pope/fit asks"):
        check([recipe("good")], {"pope": Bench(mixed, FIT, CALIBRATION)})


@pytest.mark.parametrize("names", [("p2s",), ("good", "Good"), ("Random",)])
def test_a_name_that_results_could_not_tell_apart_is_refused(names):
    with pytest.raises(RecipeError, match="Give it a name of its own"):
        check([recipe(name) for name in names], SUITES)

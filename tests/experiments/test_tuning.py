"""Searches find what is planted, fit no more than they must, and never see the test rows."""

import math
from dataclasses import replace

import pytest

from planted import Planted, recipe, split
from steersman.core.errors import RecipeError
from steersman.core.recipe import parse_recipe
from steersman.experiments.fitting import Fitter, check_layers, seeded, strength_of
from steersman.experiments.memo import MemoModel
from steersman.experiments.tuning import Tuner, default_space, suites_of
from steersman.methods.gated import Gated
from steersman.methods.l2s import L2S
from steersman.methods.mean import MeanVector
from steersman.methods.prober import ProberFit
from toy import ANSWERS, READ, SITE

FIT, CALIBRATION, TEST = split("fit", 0), split("calibration", 8), split("test", 16)
SEARCH = '"site.layer" = [0, 1, 2]\nstrength = [0.5, 0.75, 1.0]'


def at(layer, strength):
    def right(policy):
        (steerer,) = policy.steerers.values()
        return steerer.sites[0].layer == layer and math.isclose(steerer.strength, strength)

    return right


def tuner(right) -> Tuner:
    backend = Planted(right, FIT, CALIBRATION, TEST)
    return Tuner(backend, Fitter(MemoModel(backend), {"pope": FIT}), {"pope": CALIBRATION})


def test_the_planted_setting_is_found_one_path_after_the_other():
    search = tuner(at(2, 1.0))
    found = search.tune(recipe("x", SEARCH))
    (steerer,) = found.fitted.policy.steerers.values()
    assert steerer.sites[0].layer == 2 and steerer.strength == 1.0
    assert found.recipe.table["site"] == {"layer": 2} and found.recipe.table["strength"] == 1.0
    assert [choice.best for choice in found.choices.values()] == ["2", "1.0"]
    assert len(search.backend.asked) == 6 * len(CALIBRATION)  # a sum of candidates, no product


def test_only_calibration_rows_are_asked():
    search = tuner(at(0, 0.5))
    search.tune(recipe("x", SEARCH))
    assert set(search.backend.asked) == {row.prompt for row in CALIBRATION.rows}


def test_a_test_split_cannot_be_searched_on():
    search = replace(tuner(at(0, 0.5)), calibration={"pope": TEST})
    with pytest.raises(RecipeError, match="No tuning on the split that is reported"):
        search.tune(recipe("x", SEARCH))


def test_another_strength_scales_and_does_not_fit_again(monkeypatch):
    fits, real = [], MeanVector.fit
    monkeypatch.setattr(MeanVector, "fit", lambda self, *a: fits.append(self) or real(self, *a))
    search = tuner(at(1, 0.75))
    found = search.tune(recipe("x", SEARCH, "strength = 2.0"))
    assert [fit.strength for fit in fits] == [2.0] * 3  # one for each layer, as it was written
    assert found.fitted.policy.steerers["x"].strength == 0.5  # no layer but the first was right


def test_a_scaled_steerer_is_the_one_that_a_fit_gives():
    fitter = tuner(at(1, 1.0)).fitter
    first = recipe("x")
    fitter.policy(first)
    scaled = fitter.policy(first.override("strength", 0.25)).policy.steerers["x"]
    fresh = tuner(at(1, 1.0)).fitter.policy(first.override("strength", 0.25)).policy.steerers["x"]
    assert scaled.strength == fresh.strength == 0.25
    assert scaled.synthesizer.vectors.equal(fresh.synthesizer.vectors)


def test_several_steerers_are_judged_by_the_mean_of_their_suites():
    text = "\n".join(
        f'[steerers.{n}]\nmethod = "mean"\ndata = "{n}"\nsite = {{ layer = 1 }}\n'
        f'[steerers.{n}.contrasts.behaviours.object]\npositive = "{{answer}}"\n'
        'negative = "{wrong}"'
        for n in ("pope", "safety")
    )
    plan = parse_recipe(text, "r")
    assert suites_of(plan, {"pope": 1, "safety": 1}) == ("pope", "safety")
    assert set(default_space(plan)) == {"steerers.pope.strength", "steerers.safety.strength"}
    with pytest.raises(RecipeError, match="no rows to choose on for the steerer 'safety'"):
        suites_of(plan, {"pope": 1, "utility": 1})


def test_the_default_search_is_over_multiples_of_the_strength():
    plan = recipe("x", more="strength = 2.0")
    assert default_space(plan) == {"strength": (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)}


def test_strength_and_seed_are_found_behind_a_wrapper():
    inner = L2S(site=SITE, context=READ, contrasts=ANSWERS, strength=3.0)
    method = Gated(method=inner, gate=ProberFit(read=READ))
    assert strength_of(method) == 3.0
    made = seeded(method, 7)
    assert made.method.net.seed == 7 and made.gate.seed == 7 and made.method.site == SITE


def test_a_layer_that_a_search_may_ask_for_is_checked_before_anything_runs():
    backend = Planted(at(1, 1.0), FIT)
    plan = recipe("x", '"site.layer" = [1, 9]')
    with pytest.raises(RecipeError, match=r"resid_post\[9\].*3 layers"):
        check_layers(plan, {"pope": FIT}, backend.spec)
    check_layers(recipe("x"), {"pope": FIT}, backend.spec)


def about(data):
    """The rows with the object that each is about, so that it can be held out."""
    things = ("a", "b", "c", "a")
    rows = tuple(
        replace(row, labels={**row.labels, "object": thing})
        for row, thing in zip(data.rows, things, strict=True)
    )
    return replace(data, rows=rows)


def test_what_is_right_on_familiar_rows_alone_is_not_chosen_where_objects_are_held_out():
    search = tuner(lambda policy: False)
    fit, calibration = about(FIT), about(CALIBRATION)
    familiar = search.fitter.policy(recipe("x")).policy.steerers["x"].synthesizer.vectors

    def right(policy):
        """Layer 1 does it if it was fitted on every row, layer 2 in any case."""
        (steerer,) = policy.steerers.values()
        layer = steerer.sites[0].layer
        return layer == 2 or (layer == 1 and steerer.synthesizer.vectors.equal(familiar))

    paths, found = '"site.layer" = [1, 2]', {}
    for hold_out in ("", '[hold_out]\npope = "object"'):
        backend = Planted(right, fit, calibration)
        fitter = Fitter(MemoModel(backend), {"pope": fit})
        tuned = Tuner(backend, fitter, {"pope": calibration}).tune(
            recipe("x", f"{paths}\n{hold_out}")
        )
        found[hold_out] = tuned.choices["site.layer"]
        asked = len(backend.asked)
        assert asked == 2 * len(calibration)  # every row once for each candidate
        fitted = tuned.fitted.policy.steerers["x"]
        assert fitted.sites[0].layer == int(tuned.choices["site.layer"].best)
    plain, held = found.values()
    assert plain.best == "1" and held.best == "2"
    assert [row.value for _, row in held.tried] == [0, 1] and held.tried[0][1].n == 4


def test_holding_out_for_a_suite_that_teaches_nothing_is_refused():
    search = tuner(at(0, 0.5))
    with pytest.raises(RecipeError, match="hold_out names the suite 'popes'.*Did you mean 'pope'"):
        search.tune(recipe("x", f'{SEARCH}\n[hold_out]\npopes = "object"'))

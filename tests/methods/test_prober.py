import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.types import Activations, ModelSpec, Read, Site
from steersman.data.rows import Dataset, Row
from steersman.methods.contexts import read_contexts
from steersman.methods.groups import row_groups
from steersman.methods.prober import ProberFit, double_softmax, hold_out
from toy import READ, rows

EXAMPLES = [ProberFit(read=READ, hidden=16, epochs=200, learning_rate=1e-2)]
WIDTH = 12


class Planted:
    """A model with a state for each prompt: the prompt is its row number."""

    spec = ModelSpec("planted", "P", WIDTH, 3)

    def complete(self, *_):
        raise NotImplementedError

    answer_states = logits = complete

    def __init__(self, states):
        self.states = states

    def capture(self, prompts, sites, position=None):
        chosen = self.states[[int(p.text) for p in prompts]]
        return Activations(dict.fromkeys(sites, chosen))


def planted(num=400, shift=1.0, width=WIDTH, **labels):
    """States of which the first coordinate tells, and rows of three behaviours in groups of 4."""
    draw = torch.Generator().manual_seed(0)
    behaviour = [("harmful", "expert", "none", "none")[i % 4] for i in range(num)]
    states = torch.randn(num, width, generator=draw)
    states[:, 0] += shift * torch.tensor([float(b != "none") for b in behaviour])
    kinds = ("text", "image")
    made = tuple(
        Row(
            id=str(i),
            prompt=str(i),
            behaviour=b,
            labels={"pair": i // 4, "kind": kinds[i % 8 // 4]},
        )
        for i, b in enumerate(behaviour)
    )
    return Planted(states), Dataset(rows=made, meta={}, hash="", source="planted")


def fitted(recipe, model, data):
    log = FitLog()
    gate = recipe.fit(model, data, log)
    return gate, {r["kind"]: r for r in json.loads(json.dumps(log.records, allow_nan=False))}


FIT = ProberFit(read=Read(Site(1)), epochs=20)


def test_it_tells_rows_with_a_behaviour_from_rows_without():
    """On its own rows: that it can fit at all. Whether it generalises is measured on the world."""
    model, data = tiny.llama(), rows(24)
    gate = replace(EXAMPLES[0], held_out=0.0).fit(model, data)
    p = gate.probability(read_contexts(model, data.rows, READ))
    wanted = torch.tensor([r.behaviour != "none" for r in data.rows])
    assert float(((p > 0.5) == wanted).float().mean()) > 0.9


def test_one_kind_of_row_is_refused():
    data = rows(24)
    only = replace(data, rows=tuple(r for r in data.rows if r.behaviour == "harmful"))
    with pytest.raises(DataError, match="all 8 rows are of one kind"):
        EXAMPLES[0].fit(tiny.llama(), only)


def test_the_threshold_of_the_recipe_is_the_gates():
    gate = replace(EXAMPLES[0], threshold=0.9, opening="graded").fit(tiny.llama(), rows(12))
    assert gate.threshold == 0.9 and gate.opening == "graded"


def test_named_behaviours_open_it_and_all_others_close_it():
    model, data = planted(shift=0.0)
    model.states[[r.behaviour == "harmful" for r in data.rows], 1] += 6
    gate, _ = fitted(replace(FIT, behaviours=("harmful",)), model, data)
    p = gate.probability(model.states)
    mean = {
        b: float(p[[r.behaviour == b for r in data.rows]].mean()) for b in ("harmful", "expert")
    }
    assert mean["harmful"] > 0.9 and mean["expert"] < 0.1


def test_no_group_is_on_both_sides_and_both_have_both_kinds():
    draw = np.random.default_rng(0)
    for seed in range(20):
        made = [
            Row(id=str(i), prompt="a", labels={"pair": int(draw.integers(60)), "object": str(o)})
            for i, o in enumerate(draw.integers(25, size=100))
        ]
        positive = torch.tensor(draw.random(100) < 0.4)
        for names in ((), ("object",)):
            try:
                held = hold_out(positive, row_groups(made, names), share=0.25, seed=seed)
            except DataError:
                continue
            for key in ("pair", *names):
                sides = [{r.labels[key] for r, h in zip(made, held, strict=True) if h == s}
                         for s in (True, False)]  # fmt: skip
                assert not sides[0] & sides[1]
            assert len(positive[held].unique()) == len(positive[~held].unique()) == 2
    held = hold_out(torch.arange(400) % 3 == 0, [i // 4 for i in range(400)], share=0.25, seed=0)
    assert 95 <= int(held.sum()) <= 110


def test_rows_that_are_all_one_group_cannot_be_held_out():
    model, data = planted(40)
    tied = tuple(replace(r, labels={"pair": 0}) for r in data.rows)
    with pytest.raises(DataError, match=r"40 rows in 1 groups.*held_out = 0"):
        FIT.fit(model, replace(data, rows=tied))


def test_the_net_is_trained_on_the_rows_that_are_not_held_out():
    model, data = planted()
    held = hold_out(
        torch.tensor([r.behaviour != "none" for r in data.rows]),
        row_groups(data.rows), share=0.25, seed=0,
    )  # fmt: skip
    before, _ = fitted(FIT, model, data)
    model.states[held] += 3
    after, _ = fitted(FIT, model, data)
    assert torch.equal(before.weight1, after.weight1) and torch.equal(before.mean, after.mean)
    assert torch.allclose(before.mean, (model.states[~held]).mean(0), atol=1e-6)
    assert not torch.equal(before.bias2, after.bias2)


def test_calibration_lowers_the_error_of_an_overconfident_net():
    """Few rows, no decay, many epochs: the bare net is sure of everything."""
    model, data = planted(800, shift=0.8, width=64)
    sure = replace(FIT, epochs=100, weight_decay=0.0, held_out=0.5)
    error = {
        how: fitted(replace(sure, calibrate=how), model, data)[1]["gate_quality"]["ece"]
        for how in ("none", "temperature", "platt")
    }
    assert error["platt"] < error["none"] / 2 and error["temperature"] < error["none"]


def test_the_chosen_threshold_keeps_false_positives():
    model, data = planted(2000, shift=1.5)
    gate, log = fitted(replace(FIT, max_false_positives=0.1), model, data)
    fresh = torch.randn(4000, WIDTH, generator=torch.Generator().manual_seed(9))
    rate = float((gate.decide(fresh) > 0).float().mean())
    assert 0.005 < rate < 0.1  # below: both rows to leave alone of a group must be below it
    assert log["gate_quality"]["threshold"] == gate.threshold != 0.5


def test_too_few_rows_for_the_rate_are_refused():
    model, data = planted(80)
    with pytest.raises(DataError, match=r"max_false_positives 0\.01 needs at least 299"):
        replace(FIT, max_false_positives=0.01).fit(model, data)


def test_the_report_is_of_held_out_rows():
    model, data = planted()
    gate, log = fitted(FIT, model, data)
    scores, quality = log["gate_scores"], log["gate_quality"]
    assert {b: len(v) for b, v in scores["groups"].items()} == {
        "harmful": 25, "expert": 25, "none": 50,
    }  # fmt: skip
    wide = 6 * torch.ones(1, WIDTH)
    assert 0.5 < float(gate.probability(wide)) <= 1
    found = {(r["name"], r["group"]): r for r in quality["rows"]}
    assert {g for _, g in found} == {"all", "text", "image"}
    opened = [p > 0.5 for b in ("harmful", "expert") for p in scores["groups"][b]]
    assert found["recall", "all"]["value"] == pytest.approx(np.mean(opened))
    assert found["false positives", "all"]["n"] == 50
    a = found["AUROC", "all"]
    # two unit normals a distance of 1 apart have .76
    assert a["low"] < 0.76 < a["high"] and a["low"] < a["value"] < a["high"]
    assert sum(b["n"] for b in quality["reliability"]) == 100


def test_without_held_out_rows_there_is_no_report():
    model, data = planted(40)
    gate, log = fitted(replace(FIT, held_out=0.0), model, data)
    assert not log and gate.threshold == 0.5


def test_settings_that_exclude_each_other_are_refused():
    with pytest.raises(RecipeError, match=r"held_out is 0\.0"):
        replace(FIT, held_out=0.0, max_false_positives=0.1)
    with pytest.raises(RecipeError, match=r"threshold 0\.7"):
        replace(FIT, threshold=0.7, max_false_positives=0.1)
    with pytest.raises(RecipeError, match=r"max_false_positives is 1\.5"):
        replace(FIT, max_false_positives=1.5)
    with pytest.raises(RecipeError, match=r"held_out is 1\.0"):
        replace(FIT, held_out=1.0)


def test_the_released_loss_cannot_fall_below_its_floor():
    positive = torch.tensor([True, False])
    right = torch.tensor([[-50.0, 50.0], [50.0, -50.0]])
    assert float(double_softmax(right, positive)) == pytest.approx(math.log(1 + math.exp(-1)))
    assert round(math.log(1 + math.exp(-1)), 3) == 0.313
    assert float(double_softmax(-right, positive)) == pytest.approx(math.log(1 + math.e))


def test_the_released_loss_is_trained_as_in_the_released_code():
    """One full-batch AdamW step in numpy: raw inputs, the gradient of the double softmax."""
    model, data = planted(40)
    recipe = replace(
        FIT, loss="paper_code", hidden=5, epochs=1, batch_size=40, learning_rate=1e-3,
        weight_decay=1e-2, held_out=0.0,
    )  # fmt: skip
    gate, _ = fitted(recipe, model, data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = torch.nn.Linear(WIDTH, 5), torch.nn.Linear(5, 2)
    w1, b1, w2, b2 = (
        p.detach().double().numpy() for p in (first.weight, first.bias, last.weight, last.bias)
    )
    x = model.states.double().numpy()
    hot = np.eye(2)[[int(r.behaviour != "none") for r in data.rows]]
    before = x @ w1.T + b1
    hidden = np.maximum(before, 0)

    def softmax(z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    q = softmax(hidden @ w2.T + b2)
    by_q = (softmax(q) - hot) / len(x)
    by_z = q * (by_q - (by_q * q).sum(1, keepdims=True))
    by_hidden = by_z @ w2 * (before > 0)

    def step(w, g):
        return w * (1 - 1e-3 * 1e-2) - 1e-3 * g / (np.abs(g) + 1e-8)  # Adam's first step

    new_w2, new_b2 = step(w2, by_z.T @ hidden), step(b2, by_z.sum(0))
    assert np.allclose(gate.weight1, step(w1, by_hidden.T @ x), atol=1e-5)
    assert np.allclose(gate.bias1, step(b1, by_hidden.sum(0)), atol=1e-5)
    assert np.allclose(gate.weight2, new_w2[1] - new_w2[0], atol=1e-5)
    assert np.allclose(gate.bias2, new_b2[1] - new_b2[0], atol=1e-5)
    assert torch.equal(gate.mean, torch.zeros(WIDTH)) and torch.equal(gate.scale, torch.ones(WIDTH))


@pytest.mark.parametrize("loss", ["logits", "paper_code"])
def test_it_runs_on_a_real_model(loss):
    gate, log = fitted(replace(EXAMPLES[0], loss=loss, epochs=3), tiny.llama(), rows(24))
    assert not gate.weight1.requires_grad and set(log) == {"gate_scores", "gate_quality"}


@pytest.mark.slow
def test_it_is_quick():
    model, data = planted(1600, width=192)
    start = time.perf_counter()
    replace(FIT, epochs=60).fit(model, data)
    assert time.perf_counter() - start < 6

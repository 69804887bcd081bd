from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import tiny
from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.types import Activations, ModelSpec
from steersman.data.rows import Dataset, Row
from steersman.gates.subspace import Logistic, Quantile
from steersman.methods.scs import SCSFit, deal, subspace, threshold
from toy import READ, rows

EXAMPLES = [
    SCSFit(read=READ, k=3),
    SCSFit(read=READ, curve="quantile", epsilon=0.25, energy=0.6, opening="hard"),
]
D, RANK = 24, 4


class Planted:
    """A model whose prompt states are given: row "i" of the states, by the prompt's text."""

    def __init__(self, states):
        self.states = states
        self.spec = ModelSpec("planted", "Planted", states.shape[1], 3)

    def capture(self, prompts, sites, position):
        found = self.states[[int(p.text) for p in prompts]]
        return Activations(dict.fromkeys(sites, found))

    def complete(self, *_):
        raise NotImplementedError

    answer_states = logits = complete


def planted(steered=400, others=400, noise=0.35, seed=0):
    """States to steer lie near a subspace; the others have energy everywhere."""
    draw = np.random.default_rng(seed)
    basis = np.linalg.qr(draw.normal(size=(D, RANK)))[0]
    inside = draw.normal(size=(steered, RANK)) @ basis.T
    inside = inside + noise * draw.normal(size=(steered, D)) / np.sqrt(D / RANK)
    states = np.concatenate([inside, draw.normal(size=(others, D))]) + draw.normal(size=D)
    behaviours = ["harmful"] * steered + ["none"] * others
    made = [Row(id=f"r{i}", prompt=str(i), behaviour=b) for i, b in enumerate(behaviours)]
    data = Dataset(rows=tuple(made), meta={}, hash="p", source="planted")
    return Planted(torch.tensor(states, dtype=torch.float32)), data


def fitted(method, model, data):
    log = FitLog()
    gate = method.fit(model, data, log)
    return gate, {record["kind"]: record for record in log.records}


def figure(log, name, group="all"):
    return next(r for r in log["gate_quality"]["rows"] if (r["name"], r["group"]) == (name, group))


def test_the_subspace_is_that_of_principal_components():
    model, data = planted()
    own = list(range(0, 400, 2))
    space = subspace(own, model.states, "mean")
    x = model.states[own].numpy().astype(float)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    best = vectors[:, ::-1][:, :RANK].T
    assert np.allclose(np.abs(best @ space.basis(RANK).numpy().T), np.eye(RANK), atol=2e-2)
    assert np.allclose(space.found.energy[:RANK].numpy() / 199, values[::-1][:RANK], rtol=1e-3)
    z = model.states[1].numpy() - x.mean(0)
    by_hand = ((best[:2] @ z) ** 2).sum() / (z @ z)
    assert float(space.ratios(model.states, torch.tensor([1]), [2])[0, 0]) == pytest.approx(
        by_hand, abs=1e-3
    )


def test_without_centring_it_goes_through_the_origin():
    model, data = planted()
    gate = SCSFit(read=READ, k=2, centre="origin").fit(model, data)
    assert torch.equal(gate.mean, torch.zeros(D))
    along = gate.ratio(7 * gate.basis[:1])
    assert float(along[0]) == pytest.approx(1.0, abs=1e-5)


def test_the_logistic_curve_is_the_optimum_of_the_released_loss():
    model, data = planted()
    gate, log = fitted(SCSFit(read=READ, k=RANK), model, data)
    groups = log["gate_scores"]["groups"]
    s = np.array(groups["to steer"] + groups["to leave alone"])
    y = np.array([1.0] * len(groups["to steer"]) + [0.0] * len(groups["to leave alone"]))

    def loss(wb):
        z = wb[0] * s + wb[1]
        return np.mean(np.logaddexp(0, z) - y * z) + 1e-4 * wb[0] ** 2

    best = minimize(loss, [4.0, -2.0], tol=1e-12).x
    assert [gate.curve.weight, gate.curve.bias] == pytest.approx(list(best), rel=1e-3)
    opens = (np.log(0.05 / 0.95) - best[1]) / best[0]
    assert log["gate_scores"]["threshold"] == pytest.approx(opens, rel=1e-3)
    _, log = fitted(SCSFit(read=READ, k=RANK, opening="hard"), model, data)
    assert log["gate_scores"]["threshold"] == pytest.approx(-best[1] / best[0], rel=1e-3)


@pytest.mark.parametrize("curve", ["logistic", "quantile"])
def test_a_graded_gate_that_opens_a_little_has_opened(curve):
    """Rates are of rows that the gate touches, not of those above the paper's hard threshold."""
    model, data = planted(noise=0.8)
    gate, log = fitted(SCSFit(read=READ, k=RANK, curve=curve), model, data)
    groups = log["gate_scores"]["groups"]
    for name, side in (("recall", "to steer"), ("false positives", "to leave alone")):
        s = np.array(groups[side])
        touched = gate.curve(torch.tensor(s, dtype=torch.float32)).numpy() >= 0.05
        assert np.array_equal(touched, s >= log["gate_scores"]["threshold"])
        # Each row was judged by a curve of the other folds: a few lie between the two.
        assert figure(log, name)["value"] == pytest.approx(touched.mean(), abs=0.03)
    half = gate.curve(torch.tensor(groups["to leave alone"])) >= 0.5
    assert figure(log, "false positives")["value"] > 2 * float(half.float().mean())


def test_rows_of_the_subspace_are_not_judged():
    """On its own rows a subspace holds more energy than on any other: those are held out."""
    model, data = planted(steered=60, others=60)
    y = torch.tensor([r.behaviour != "none" for r in data.rows])
    parts = deal(list(range(120)), y, [0.5, 0.0, *[0.125] * 4], 0)
    own = {i for i in parts[0] if y[i]}
    gate, log = fitted(SCSFit(read=READ, k=20), model, data)
    held = sorted(log["gate_scores"]["groups"]["to steer"])
    s = gate.ratio(model.states)
    outside = sorted(float(s[i]) for i in range(60) if i not in own)
    assert len(own) == len(held) == 30
    assert held == pytest.approx(outside, abs=1e-6)
    assert float(s[list(own)].mean()) > 0.02 + np.mean(held)


def test_groups_stay_together_and_sides_are_dealt_alike():
    group = [i // 2 for i in range(60)] + list(range(30, 50))
    y = torch.tensor([i % 2 == 0 for i in range(40)] + [True] * 20 + [False] * 20)
    parts = deal(group, y, [0.5, 0.25, 0.25], 3)
    assert sorted(i for part in parts for i in part) == list(range(80))
    assert [len(part) for part in parts] == [40, 19, 21]
    where = {i: n for n, part in enumerate(parts) for i in part}
    assert all(where[i] == where[i + 1] for i in range(0, 60, 2))
    assert [sum(where[i] == n for i in range(60, 80)) for n in range(3)] == [10, 5, 5]
    assert deal(group, y, [0.5, 0.25, 0.25], 3) == parts
    assert deal(group, y, [0.5, 0.25, 0.25], 4) != parts


def test_rows_of_a_pair_are_not_on_both_sides_of_the_split():
    """Each pair shares a state, so a pair across the split would be known to the subspace."""
    model, data = planted(steered=40, others=40)
    model.states[1:40:2] = model.states[0:40:2]
    paired = [replace(r, labels={"pair": i // 2}) for i, r in enumerate(data.rows)]
    _, log = fitted(SCSFit(read=READ, k=19), model, replace(data, rows=tuple(paired)))
    held = log["gate_scores"]["groups"]["to steer"]
    assert len(held) == 20 and max(held) < 1 - 1e-4, "a state of the subspace's own rows has 1"
    _, log = fitted(SCSFit(read=READ, k=19), model, data)
    assert max(log["gate_scores"]["groups"]["to steer"]) > 1 - 1e-4, "without the label it has"


@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_the_quantile_gate_opens_for_all_but_epsilon_of_new_requests(epsilon):
    method = SCSFit(read=READ, k=RANK, curve="quantile", epsilon=epsilon)
    opened = []
    for seed in range(8):
        model, data = planted(steered=2000, others=1, seed=seed)
        gate = replace(method, seed=seed).fit(model, replace(data, rows=data.rows[:1000]))
        g = gate.decide(model.states[1000:2000])
        hard = replace(gate, floor=1.0, opening="hard").decide(model.states[1000:2000])
        assert torch.equal(hard, (g == 1).float())
        opened.append(float(hard.mean()))
    assert np.mean(opened) == pytest.approx(1 - epsilon, abs=0.03)


def test_it_opens_for_new_requests_to_steer_and_not_for_others():
    model, data = planted(steered=600, others=600)
    chosen = [*range(300), *range(600, 900)]
    old = replace(data, rows=tuple(data.rows[i] for i in chosen))
    gate, log = fitted(SCSFit(read=READ, k=RANK), model, old)
    g = gate.decide(model.states)
    assert float((g[300:600] > 0.5).float().mean()) > 0.9
    assert float((g[900:] > 0.5).float().mean()) < 0.1
    assert float((g[900:] == 0).float().mean()) > 0.5
    assert figure(log, "AUROC")["value"] > 0.95


def test_k_is_chosen_by_energy_or_by_auroc():
    model, data = planted()
    assert len(SCSFit(read=READ, energy=0.8).fit(model, data).basis) == RANK
    by_auroc = SCSFit(read=READ, choose_k="auroc", ks=(1, RANK, 20))
    assert len(by_auroc.fit(model, data).basis) == RANK
    _, log = fitted(by_auroc, model, data)
    assert len(log["gate_scores"]["groups"]["to steer"]) == 100, "the other half chose k"


def test_figures_are_rates_with_wilsons_intervals():
    model, data = planted()
    labelled = tuple(
        replace(r, labels={"kind": ("text", "image")[i % 2]}) for i, r in enumerate(data.rows)
    )
    _, log = fitted(SCSFit(read=READ, k=RANK), model, replace(data, rows=labelled))
    quality = log["gate_quality"]
    assert {r["group"] for r in quality["rows"]} == {"all", "text", "image"}
    for name in ("recall", "false positives"):
        row = figure(log, name)
        p, n, z = row["value"], row["n"], 1.959964
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        assert [row["low"], row["high"]] == pytest.approx([middle - reach, middle + reach])
        assert n == 200
    groups = log["gate_scores"]["groups"]
    steered, others = (np.array(groups[g])[:, None] for g in ("to steer", "to leave alone"))
    wins = (steered > others.T).mean() + 0.5 * (steered == others.T).mean()
    assert figure(log, "AUROC")["value"] == pytest.approx(wins, abs=1e-6)
    assert 0 <= quality["ece"] < 0.2 and sum(b["n"] for b in quality["reliability"]) == 400


def test_the_quantile_curve_needs_no_rows_to_be_left_alone():
    model, data = planted()
    only = replace(data, rows=data.rows[:400])
    gate, log = fitted(SCSFit(read=READ, k=RANK, curve="quantile"), model, only)
    held = sorted(log["gate_scores"]["groups"]["to steer"])
    assert isinstance(gate.curve, Quantile) and gate.curve.ratios.tolist() == pytest.approx(held)
    assert set(log["gate_scores"]["groups"]) == {"to steer"}
    assert [r["name"] for r in log["gate_quality"]["rows"]] == ["recall"]
    assert log["gate_quality"]["ece"] is None
    with pytest.raises(DataError, match="one kind"):
        SCSFit(read=READ, k=RANK).fit(model, only)


def test_only_the_named_behaviours_are_steered():
    gate, log = fitted(replace(EXAMPLES[0], behaviours=("expert",), k=2), tiny.llama(), rows(48))
    groups = log["gate_scores"]["groups"]
    assert [len(groups[g]) for g in ("to steer", "to leave alone")] == [8, 16]
    with pytest.raises(DataError, match="No row has the behaviour 'object'"):
        replace(EXAMPLES[0], behaviours=("object",)).fit(tiny.llama(), rows())


def test_the_threshold_is_where_the_curve_has_the_value():
    assert threshold(Logistic(4.0, -2.0), 0.5) == pytest.approx(0.5)
    assert threshold(Logistic(4.0, -2.0), 0.8) == pytest.approx((np.log(4) + 2) / 4)
    curve = Quantile(torch.tensor([0.2, 0.4, 0.6, 0.8]), epsilon=0.5, gamma=2.0)
    assert threshold(curve, 1.0) == pytest.approx(0.4, abs=1e-6)
    assert float(curve(torch.tensor([threshold(curve, 0.3)]))[0]) == pytest.approx(0.3, abs=1e-4)


def test_too_few_rows_are_refused():
    model, data = planted(steered=40, others=40)
    with pytest.raises(DataError, match="k is 20, but .* 19 directions"):
        SCSFit(read=READ, k=20).fit(model, data)
    few = replace(data, rows=(*data.rows[:4], *data.rows[-4:]))
    with pytest.raises(DataError, match="2 rows to steer do not span"):
        SCSFit(read=READ, k=1).fit(model, few)
    with pytest.raises(DataError, match="20 held-out rows to steer are too few .* 50 are needed"):
        SCSFit(read=READ, k=2, curve="quantile", epsilon=0.02).fit(model, data)
    with pytest.raises(DataError, match="too few for a logistic curve"):
        SCSFit(read=READ, k=2).fit(model, replace(data, rows=data.rows[:41]))
    with pytest.raises(DataError, match="or set k"):
        SCSFit(read=READ, choose_k="auroc", ks=(64,)).fit(model, data)


def test_states_that_do_not_differ_open_the_gate_by_the_share_of_rows_to_steer():
    model, data = planted(steered=40, others=120)
    model.states[:] = model.states[0]
    gate, log = fitted(SCSFit(read=READ), model, data)
    assert gate.decide(model.states[:2]).tolist() == pytest.approx([0.25, 0.25], abs=1e-3)
    assert figure(log, "AUROC")["value"] == 0.5


def test_settings_outside_are_refused():
    with pytest.raises(RecipeError, match="held_out is 1"):
        SCSFit(read=READ, held_out=1.0)
    with pytest.raises(RecipeError, match="1 or more"):
        SCSFit(read=READ, k=0)

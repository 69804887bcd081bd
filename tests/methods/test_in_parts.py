"""Rows are worked on some at a time: the figures are those of all at once, and none pile up."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

import tiny
from steersman.core.fitlog import FitLog
from steersman.core.types import Activations, ModelSpec, Site
from steersman.methods import contexts, contrast, mose, net_training, prober
from steersman.methods.contexts import mean_states, read_sites
from steersman.methods.contrast import (
    contrast_states,
    contrast_vectors,
    mean_contrast,
    norm_factors,
    scaled,
)
from steersman.methods.mean import MeanVector
from steersman.methods.mose import MixtureTraining, fit_mixture
from steersman.methods.net_training import NetTraining, train_net
from steersman.methods.prober import mean_and_spread
from steersman.selectors.sas import SafetyAwareness
from toy import READ, RULE, SITE, rows

SITES = (SITE, Site(2), Site(1, "attn_heads"))


class Watched:
    """A model that counts how many of the states that it gave are still held when it is asked."""

    spec = ModelSpec("watched", "Watched", 8, 3)

    def __init__(self):
        self.given, self.most, self.calls = [], 0, 0

    def capture(self, prompts, sites, position):
        gc.collect()
        self.most = max(self.most, sum(ref() is not None for ref in self.given))
        self.calls += 1
        states = torch.arange(8.0) + torch.tensor([[len(p.text + p.completion)] for p in prompts])
        states = states * states
        self.given.append(weakref.ref(states))
        return Activations(dict.fromkeys(sites, states))

    def complete(self, *_):
        raise NotImplementedError

    answer_states = logits = complete


@pytest.mark.parametrize("keep", ["match", "keep"])
def test_the_mean_contrast_is_that_of_all_vectors(monkeypatch, keep):
    monkeypatch.setattr(contrast, "CHUNK", 5)
    model, rule = tiny.llama(), replace(RULE, norms=keep)
    steered = [row for row in rows().rows if row.behaviour != "none"]
    z = contrast_vectors(model, rule, steered, SITES)
    made = mean_contrast(model, rule, rows().rows, SITES)
    for site in SITES:
        whole = scaled(steered, z[site], norm_factors(rule, steered, z[site])).mean(0)
        assert torch.allclose(made[site], whole, atol=1e-6)


def test_memory_of_a_mean_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr(contrast, "CHUNK", 4)
    held = []
    for num in (12, 48):
        model = Watched()
        MeanVector(site=SITE, contrasts=RULE).fit(model, rows(num))
        assert model.calls == num * 2 // 3 // 4
        held.append(model.most)
    assert held[0] == held[1] <= 1


def test_states_come_back_in_the_order_of_the_rows(monkeypatch):
    model, steered = tiny.llama(), [r for r in rows().rows if r.behaviour != "none"]
    whole = contrast_states(model, RULE, steered, SITES)
    monkeypatch.setattr(contrast, "CHUNK", 3)
    parts = contrast_states(model, RULE, steered, SITES)
    for site in SITES:
        for a, b in zip(whole[site], parts[site], strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_contexts_and_their_means_are_those_of_all_rows(monkeypatch):
    model, data = tiny.llama(), rows().rows
    whole = read_sites(model, data, READ, SITES)
    monkeypatch.setattr(contexts, "CHUNK", 7)
    parts = read_sites(model, data, READ, SITES)
    sides = ([0, 3, 4, 20], [1, 2, 23])
    means = mean_states(model, data, READ, SITES, sides)
    for site in SITES:
        assert torch.allclose(whole[site], parts[site], atol=1e-5)
        for side, mean in zip(sides, means, strict=True):
            assert torch.allclose(mean[site], whole[site][side].mean(0), atol=1e-5)


def pairs(n=90, d=12):
    draw = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=draw), torch.randn(n, d, generator=draw)


def test_the_net_is_judged_on_all_held_out_rows(monkeypatch):
    x, z = pairs()
    plan, found = NetTraining(hidden=6, epochs=4, validation=0.3), []
    for chunk in (1024, 4):
        monkeypatch.setattr(net_training, "EVALUATED", chunk)
        log = FitLog()
        train_net(plan, READ, x, z, ["a", "b", "b"] * 30, log=log)
        found.append(log.records[0]["validation"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_mixtures_gradient_is_that_of_the_full_batch(monkeypatch):
    x, z = pairs()
    plan = MixtureTraining(ks=(3,), residual_dim=2, attention_dim=4, hidden=8, epochs=6)
    made = []
    for chunk in (1024, 8):
        monkeypatch.setattr(mose, "CHUNK", chunk)
        made.append(fit_mixture(plan, READ, x, z, rows(90).rows).synthesize(x))
    assert torch.allclose(made[0], made[1], atol=1e-4)
    by_hand = FitLog()
    fit_mixture(replace(plan, epochs=1), READ, x, z, rows(90).rows, log=by_hand)
    net = fit_mixture(replace(plan, epochs=1, learning_rate=1e-12), READ, x, z, rows(90).rows)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    error = (net.synthesize(x) - z)[order[9:]].pow(2).mean() / z.norm(dim=1).mean() ** 2 * 12
    record = next(r for r in by_hand.records if r["kind"] == "training")
    assert record["train"][0] == pytest.approx(float(error), rel=1e-4)


def test_columns_are_standardised_as_all_at_once(monkeypatch):
    monkeypatch.setattr(prober, "COLUMNS", 5)
    x, _ = pairs()
    chosen = torch.arange(0, 90, 2)
    mean, spread = mean_and_spread(x, chosen)
    assert torch.allclose(mean, x[chosen].mean(0), atol=1e-6)
    assert torch.allclose(spread, x[chosen].std(0), atol=1e-6)


def test_a_layer_score_keeps_sums_alone():
    """Its state is as large after many pairs as before the first."""
    score = SafetyAwareness()
    state = first = score.init(8, 3)
    for start in range(0, 60, 20):
        positive, negative = pairs(20, 8)
        state = score.update(state, positive + start, negative, torch.arange(20) % 3)
    assert [x.shape for x in state] == [x.shape for x in first]

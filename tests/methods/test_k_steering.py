from importlib.resources import files

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import tiny
from captured import completion_states
from packing import D, pack, talk
from steersman.core.errors import DataError, RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.recipe import parse_recipe
from steersman.data.rows import Dataset, Row
from steersman.methods.k_steering import ClassifierStep, KSteering
from toy import RULE, SITE, rows


def step(norm="raw", scale=1.0, weights=(0.5, 0.5, -1.0)):
    draw = torch.Generator().manual_seed(0)
    return ClassifierStep(
        mean=torch.randn(D, generator=draw),
        spread=torch.rand(D, generator=draw) + 0.5,
        weight1=torch.randn(6, D, generator=draw),
        bias1=torch.randn(6, generator=draw),
        weight2=torch.randn(3, 6, generator=draw),
        bias2=torch.randn(3, generator=draw),
        weights=torch.tensor(weights),
        norm=norm,
        scale=scale,
    )


EXAMPLES = [
    KSteering(site=SITE, contrasts=RULE, epochs=10),
    KSteering(site=SITE, contrasts=RULE, wanted=("harmful",), avoided=("expert",), norm="raw",
              epochs=10),
    step(),
    step("unit", 2.0),
]  # fmt: skip
X = pack([talk(0), talk(1), talk(2)], [(0, 0, 7), (1, 0, 7), (2, 0, 7)])


def test_the_step_is_minus_the_gradient_of_the_papers_loss():
    part, h = step(), X.h.clone().requires_grad_(True)
    hidden = torch.relu((h - part.mean) / part.spread @ part.weight1.T + part.bias1)
    f = hidden @ part.weight2.T + part.bias2
    loss = -f[:, :2].mean(1) + f[:, 2]
    (gradient,) = torch.autograd.grad(loss.sum(), h)
    assert torch.allclose(part(X, None), -gradient, atol=1e-5)
    assert torch.allclose(part.logits(X.h), f)
    assert len(torch.unique(part(X, None), dim=0)) > 5, "the step depends on the state"


def test_a_unit_step_has_the_given_length():
    made, raw = step("unit", 2.0)(X, None), step()(X, None)
    by_hand = 2 * raw.numpy() / np.linalg.norm(raw.numpy(), axis=1, keepdims=True)
    assert np.allclose(made.numpy(), by_hand, atol=1e-5)


def test_it_needs_no_autograd():
    with torch.inference_mode():
        assert torch.equal(step()(X, None), step()(X, None))


def test_the_weights_are_means_over_wanted_and_avoided():
    model, data = tiny.llama(), rows()
    assert EXAMPLES[0].fit(model, data).synthesizer.weights.tolist() == [0.5, 0.5]
    assert EXAMPLES[1].fit(model, data).synthesizer.weights.tolist() == [1.0, -1.0]


def test_the_classifier_knows_the_completions_and_a_step_raises_the_wanted_logits():
    model, data, log = tiny.llama(), rows(), FitLog()
    part = EXAMPLES[0].fit(model, data, log).synthesizer
    chosen = [row for row in data.rows if row.behaviour != "none"]
    positive, negative = completion_states(model, chosen, SITE)
    length = np.linalg.norm(positive - negative, axis=1).mean()
    assert part.scale == pytest.approx(length, rel=1e-4)
    states = torch.tensor(np.concatenate([positive, negative])).float()
    assert np.allclose(part.mean.numpy(), states.mean(0).numpy(), atol=1e-5)
    for k, name in enumerate(RULE.behaviours):
        labels = [row.behaviour == name for row in chosen] + [False] * len(chosen)
        assert roc_auc_score(labels, part.logits(states)[:, k].numpy()) > 0.95
    x = pack([talk(0)], [(0, 0, 7)]).with_h(states[:7])
    moved = part.logits(states[:7] + 0.01 * part(x, None)).mean(1)
    assert bool((moved > part.logits(states[:7]).mean(1)).all())
    (record,) = log.records
    assert record["kept"] == int(np.argmin(record["validation"])) and len(record["train"]) == 10


def test_what_cannot_be_is_refused():
    with pytest.raises(RecipeError, match="Did you mean 'harmful'"):
        KSteering(site=SITE, contrasts=RULE, wanted=("harmfull",)).fit(tiny.llama(), rows())
    with pytest.raises(RecipeError, match="avoid none that is wanted"):
        KSteering(site=SITE, contrasts=RULE, wanted=("expert",), avoided=("expert",)).fit(
            tiny.llama(), rows()
        )
    with pytest.raises(RecipeError, match="validation is 0"):
        KSteering(site=SITE, contrasts=RULE, validation=0.0)
    one = tuple(
        Row(id=str(i), prompt="a b", behaviour="harmful", labels={"pair": "x"}) for i in range(3)
    )
    with pytest.raises(DataError, match="one group"):
        KSteering(site=SITE, contrasts=RULE).fit(
            tiny.llama(), Dataset(rows=one, meta={}, hash="", source="toy")
        )


def test_the_recipe_for_the_bundled_world_is_this_method():
    text = (files("steersman.world") / "recipes" / "k_steering.toml").read_text("utf-8")
    assert isinstance(parse_recipe(text, "k_steering.toml").method, KSteering)

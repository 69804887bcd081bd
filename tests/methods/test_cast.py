from importlib.resources import files

import numpy as np
import pytest
import torch

import tiny
from captured import mean_contrast, prompt_states
from packing import READ as PACKED_READ
from packing import D
from steersman.core.errors import RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.recipe import parse_recipe
from steersman.core.types import Read, Site
from steersman.methods.cast import CAST, CosineCondition, condition_vector
from steersman.selectors.layers import Layers
from toy import READ, RULE, SITE, rows

DRAW = torch.Generator().manual_seed(0)
CONDITION = torch.randn(D, generator=DRAW)
EXAMPLES = [
    CAST(layers=Layers(layers=(1,)), condition=READ, contrasts=RULE),
    CAST(layers=Layers(layers=(1, 2)), condition=READ, contrasts=RULE, behaviours=("harmful",),
         direction="mean", comparator="larger"),
    CosineCondition(read=PACKED_READ, condition=CONDITION, threshold=0.1),
    CosineCondition(read=PACKED_READ, condition=CONDITION, threshold=0.6, comparator="smaller"),
]  # fmt: skip


def similarity(h, c):
    """The paper's formula with its d x d projector, in float64."""
    projected = np.tanh(np.outer(c, c) / (c @ c) @ h)
    return h @ projected / np.linalg.norm(h) / np.linalg.norm(projected)


def test_the_gate_is_the_papers_with_the_full_projector():
    h = torch.randn(50, D, generator=DRAW) * 3
    by_hand = np.array([similarity(x, CONDITION.numpy().astype(float)) for x in h.numpy()])
    theta = float(np.median(by_hand)) + 1e-4
    for comparator, opened in (("larger", by_hand > theta), ("smaller", by_hand < theta)):
        gate = CosineCondition(
            read=PACKED_READ, condition=CONDITION, threshold=theta, comparator=comparator
        )
        assert 0 < opened.sum() < 50
        assert np.array_equal(gate.decide(h).numpy(), opened.astype(np.float32))


def test_the_sign_and_the_length_of_the_condition_vector_do_not_matter():
    """c appears twice in the projector."""
    h, made = torch.randn(50, D, generator=DRAW), []
    for factor in (1.0, -1.0, 7.0):
        gate = CosineCondition(read=PACKED_READ, condition=CONDITION * factor, threshold=0.2)
        made.append(gate.decide(h))
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def test_the_condition_vector_is_the_first_component_about_the_middle():
    h = torch.randn(40, D, generator=DRAW)
    positive = torch.arange(40) < 15
    h[positive] += 2 * CONDITION
    x = h.numpy().astype(np.float64)
    above, below = x[:15].mean(0), x[15:].mean(0)
    centred = x - (above + below) / 2
    values, vectors = np.linalg.eigh(centred.T @ centred)
    by_hand = vectors[:, np.argmax(values)]
    by_hand *= np.sign(by_hand @ (above - below))
    assert np.allclose(condition_vector(h, positive, "pca").numpy(), by_hand, atol=1e-5)
    assert np.allclose(condition_vector(h, positive, "mean").numpy(), above - below, atol=1e-5)


def test_fitted_on_rows_it_opens_for_those_that_look_like_the_condition():
    model, data, log = tiny.llama(), rows(), FitLog()
    fitted = EXAMPLES[0].fit(model, data, log)
    scores, quality = log.records
    assert (scores["kind"], quality["kind"]) == ("gate_scores", "gate_quality")
    h = prompt_states(model, data.rows, SITE)
    c = fitted.gate.condition.numpy().astype(float)
    by_hand = np.array([similarity(x, c) for x in h])
    sign = 1 if fitted.gate.comparator == "larger" else -1
    opened = sign * by_hand > sign * fitted.gate.threshold
    assert np.array_equal(fitted.gate.decide(torch.tensor(h).float()).numpy() > 0, opened)
    held = [s for group in scores["groups"].values() for s in group]
    assert 6 <= len(held) < 12
    assert all(np.abs(by_hand - s).min() < 1e-5 for s in held)


def test_every_layer_written_has_its_own_mean_contrast_of_the_behaviour():
    model, data = tiny.llama(), rows()
    chosen = [row for row in data.rows if row.behaviour == "harmful"]
    fitted = EXAMPLES[1].fit(model, data).synthesizer
    for site, vector in zip(fitted.sites, fitted.vectors, strict=True):
        assert np.allclose(vector.numpy(), mean_contrast(model, chosen, site), atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(RecipeError, match=r"threshold is 1\.5"):
        CosineCondition(read=PACKED_READ, condition=CONDITION, threshold=1.5)
    with pytest.raises(RecipeError, match=r"resid_post\[9\].*3 layers"):
        CAST(layers=Layers(layers=(1,)), condition=Read(Site(9)), contrasts=RULE).fit(
            tiny.llama(), rows()
        )


def test_the_recipe_for_the_bundled_world_is_this_method():
    text = (files("steersman.world") / "recipes" / "cast.toml").read_text("utf-8")
    assert isinstance(parse_recipe(text, "cast.toml").method, CAST)

import math

import numpy as np
import pytest
import torch

import tiny
from steersman.core.errors import RecipeError
from steersman.core.types import Position
from steersman.data.contrast import pair
from steersman.data.rows import Dataset
from steersman.methods.angular import Angular, plane
from steersman.selectors.layers import Layers
from toy import RULE, rows

EXAMPLES = [
    Angular(layers=Layers(layers=(1, 2)), contrasts=RULE),
    Angular(layers=Layers(layers=(1,)), contrasts=RULE, angle_deg=150.0, behaviour="harmful"),
]


def by_hand(directions):
    """The plane of the paper from one direction per layer, in numpy."""
    c = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    b1 = c[(c @ c.T).mean(1).argmax()]
    values, vectors = np.linalg.eigh(np.cov(c.T, bias=True))
    b2 = vectors[:, values.argmax()]
    b2 = b2 - (b2 @ b1) * b1
    return b1, b2 / np.linalg.norm(b2)


def test_the_plane_is_the_most_typical_direction_and_the_first_component():
    draw = np.random.default_rng(0)
    directions = draw.normal(size=16) + 0.7 * draw.normal(size=(6, 16))
    b1, b2 = (b.numpy() for b in plane(torch.from_numpy(directions).float()))
    first, second = by_hand(directions)
    assert np.allclose(b1, first, atol=1e-5)
    assert math.isclose(abs(b2 @ second), 1.0, abs_tol=1e-5)
    assert abs(b1 @ b2) < 1e-6


def test_fitted_states_are_turned_to_the_angle_and_keep_their_length():
    model = tiny.llama()
    chosen = tuple(r for r in rows().rows if r.behaviour == "harmful")
    data = Dataset(rows=chosen, meta={}, hash="h", source="toy")
    pairs = [pair(r, RULE.behaviours["harmful"]) for r in chosen]
    at, sites = Position("completion", "last"), model.spec.sites()
    p, n = (model.capture([x[i] for x in pairs], sites, at) for i in (0, 1))
    directions = np.stack([(p[s] - n[s]).double().mean(0).numpy() for s in sites])
    first, second = by_hand(directions)
    steerer = EXAMPLES[1].fit(model, data)
    assert np.allclose(steerer.synthesizer.vectors[0].numpy(), first, atol=1e-5)
    h = torch.randn(5, tiny.WIDTH)
    made = steerer.operator(h, steerer.synthesizer.vectors, torch.ones(5)).double().numpy()
    assert np.allclose(np.linalg.norm(made, axis=1), h.norm(dim=1).numpy(), atol=1e-5)
    x, y = made @ first, made @ second
    assert np.allclose(np.degrees(np.abs(np.arctan2(y, x))), 150.0, atol=1e-3)


def test_the_plane_is_the_same_at_every_site():
    vectors = EXAMPLES[0].fit(tiny.llama(), rows()).synthesizer.vectors
    assert vectors.shape == (2, tiny.WIDTH) and torch.equal(vectors[0], vectors[1])


def test_one_candidate_spans_no_plane():
    one = Angular(layers=Layers(layers=(1,)), contrasts=RULE, candidates=Layers(layers=(1,)))
    with pytest.raises(RecipeError, match="two layers or more"):
        one.fit(tiny.llama(), rows())
    with pytest.raises(RecipeError, match="no plane"):
        plane(torch.ones(3, 4))

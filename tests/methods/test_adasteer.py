from importlib.resources import files

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import tiny
from captured import mean_contrast, prompt_states
from packing import SITE as PACKED_SITE
from packing import D, pack, talk
from steersman.core.errors import DataError, RecipeError
from steersman.core.recipe import parse_recipe
from steersman.core.types import Read, Site
from steersman.methods.adasteer import AdaptiveVectors, AdaSteer, Axis, fit_axis
from steersman.selectors.layers import Layers
from toy import READ, RULE, SITE, rows

DRAW = torch.Generator().manual_seed(0)


def axis(seed, low, high, site=PACKED_SITE):
    draw = torch.Generator().manual_seed(seed)
    origin, direction = torch.randn(2, D, generator=draw)
    return Axis(Read(site), origin, direction / direction.norm(), 1.5, 0.01, 0.1, low, high)


def adaptive(harm_site=PACKED_SITE):
    vectors = torch.randn(2, 1, D, generator=torch.Generator().manual_seed(3))
    return AdaptiveVectors(
        sites=(PACKED_SITE,),
        rejection=axis(1, 0.0, 1.0),
        harm=axis(2, -0.5, 0.2, harm_site),
        rejection_vectors=vectors[0],
        harm_vectors=vectors[1],
    )


EXAMPLES = [
    AdaSteer(layers=Layers(layers=(1,)), rejection=READ, harm=READ, contrasts=RULE),
    AdaSteer(layers=Layers(layers=(1, 2)), rejection=Read(Site(0)), harm=READ, contrasts=RULE,
             behaviours=("harmful",), rejection_bounds=(-0.2, 2.0)),
    adaptive(),
]  # fmt: skip


def by_formula(a, h):
    """clip(w p + b, low, high) at the position p on one axis."""
    p = 100 * (h - a.origin.numpy()) @ a.direction.numpy() / a.span
    return np.clip(a.slope * p + a.intercept, a.low, a.high)


@pytest.mark.parametrize("site", [PACKED_SITE, Site(0)])
def test_both_vectors_are_scaled_by_where_the_prompt_lies(site):
    part, talks = adaptive(site), [talk(seed) for seed in range(9)]
    spans = [(r, 0, len(t)) for r, t in enumerate(talks)]
    state = part.init(9, talks[0].states)
    for where in {site, PACKED_SITE}:
        state = part.observe(pack(talks, spans, where), state)
    x = pack(talks, spans)
    v, seen = part(x, state).numpy(), []
    for r, one in enumerate(talks):
        h = one.states[one.prompt_length - 1].numpy()
        a, b = by_formula(part.rejection, h), by_formula(part.harm, h)
        seen.append((float(a), float(b)))
        by_hand = a * part.rejection_vectors[0].numpy() + b * part.harm_vectors[0].numpy()
        assert np.allclose(v[x.request.numpy() == r], by_hand, atol=1e-5)
    assert len(set(seen)) > 3 and any(0 < a < 1 for a, _ in seen)


def test_rows_to_steer_lie_at_zero_and_the_others_at_a_hundred():
    h = torch.randn(60, D, generator=DRAW)
    h[:20] += 2
    a = fit_axis(READ, h[:20], h[20:], direction=-torch.ones(D), bounds=(0.0, 1.0))
    assert float(a.position(h[:20]).mean()) == pytest.approx(0, abs=1e-3)
    assert float(a.position(h[20:]).mean()) == pytest.approx(100, abs=1e-3)
    assert a.slope < 0 and float(a.coefficient(h[:20]).mean()) > 0.9


def logistic(positions, labels):
    """Balanced logistic regression with the penalty |w|^2 / 2, minimised from its definition."""
    y = np.array(labels)
    weight = np.where(y == 1, len(y) / 2 / y.sum(), len(y) / 2 / (1 - y).sum())

    def loss(theta):
        z = theta[0] * positions + theta[1]
        return (weight * np.logaddexp(0, np.where(y == 1, -z, z))).sum() + theta[0] ** 2 / 2

    return minimize(loss, np.zeros(2), tol=1e-10).x


def test_fitted_it_has_the_papers_directions_and_a_logistic_coefficient():
    model, data = tiny.llama(), rows()
    part = EXAMPLES[1].fit(model, data).synthesizer
    steered = [row for row in data.rows if row.behaviour == "harmful"]
    alone = [row for row in data.rows if row.behaviour != "harmful"]
    for i, site in enumerate(part.sites):
        v = mean_contrast(model, steered, site)
        difference = prompt_states(model, steered, site).mean(0)
        difference = difference - prompt_states(model, alone, site).mean(0)
        orthogonal = difference - (difference @ v) / (v @ v) * v
        assert np.allclose(part.rejection_vectors[i].numpy(), v, atol=1e-5)
        assert np.allclose(part.harm_vectors[i].numpy(), orthogonal, atol=1e-5)
    directions = {
        part.rejection: -mean_contrast(model, steered, Site(0)),
        part.harm: -(
            prompt_states(model, steered, SITE).mean(0) - prompt_states(model, alone, SITE).mean(0)
        ),
    }
    bounds = {part.rejection: (-0.2, 2.0), part.harm: (-0.5, 0.0)}
    for found, direction in directions.items():
        h = [prompt_states(model, side, found.read.site) for side in (steered, alone)]
        along = direction / np.linalg.norm(direction)
        first, second = ((side - h[0].mean(0)) @ along for side in h)
        p = np.concatenate([first, second]) / second.mean()
        slope, intercept = logistic(p, [1] * len(first) + [0] * len(second))
        wanted = np.clip(slope * p + intercept, *bounds[found])
        made = found.coefficient(torch.tensor(np.concatenate(h)).float()).numpy()
        assert np.allclose(made, wanted, atol=2e-3)
        assert made.std() > 0


def test_what_cannot_be_is_refused():
    with pytest.raises(RecipeError, match="lower one first"):
        AdaSteer(layers=Layers(layers=(1,)), rejection=READ, harm=READ, contrasts=RULE,
                 harm_bounds=(0.5, 0.0))  # fmt: skip
    same = torch.ones(4, D)
    with pytest.raises(DataError, match="same mean position"):
        fit_axis(READ, same, same, direction=torch.ones(D), bounds=(0.0, 1.0))
    with pytest.raises(RecipeError, match=r"resid_post\[9\]"):
        AdaSteer(
            layers=Layers(layers=(1,)), rejection=READ, harm=Read(Site(9)), contrasts=RULE
        ).fit(tiny.llama(), rows())


def test_the_recipe_for_the_bundled_world_is_this_method():
    text = (files("steersman.world") / "recipes" / "adasteer.toml").read_text("utf-8")
    assert isinstance(parse_recipe(text, "adasteer.toml").method, AdaSteer)

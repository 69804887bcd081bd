from importlib.resources import files

import numpy as np
import pytest
import torch

import tiny
from captured import mean_contrast, prompt_states
from packing import SITE as PACKED_SITE
from packing import D, pack, talk
from steersman.core.errors import RecipeError
from steersman.core.recipe import parse_recipe
from steersman.core.types import Read, Site
from steersman.methods.alphasteer import AlphaSteer, RankOneField, refusal_input
from steersman.selectors.layers import Layers
from toy import RULE, rows

DRAW = torch.Generator().manual_seed(0)


def field(sites=(PACKED_SITE,)):
    draw = torch.Generator().manual_seed(1)
    return RankOneField(
        sites=sites,
        contexts=tuple(Read(site) for site in sites),
        inputs=torch.randn(len(sites), D, generator=draw),
        outputs=torch.randn(len(sites), D, generator=draw),
    )


EXAMPLES = [
    AlphaSteer(layers=Layers(layers=(1,), point="resid_pre"), contrasts=RULE),
    AlphaSteer(layers=Layers(layers=(1, 2), point="resid_pre"), contrasts=RULE,
               behaviours=("harmful",), null_space=0.9, regularisation=0.1),
    field(),
    field((Site(0), PACKED_SITE)),
]  # fmt: skip


def papers_map(harmful, benign, r, null_space=0.6, regularisation=10.0):
    """S = P D with d x d matrices, as the paper writes it."""
    d = benign.shape[1]
    values, vectors = np.linalg.eigh(benign.T @ benign)
    q = vectors[:, np.argsort(values)[: int(null_space * d)]]
    p = q @ q.T
    x = harmful @ p
    targets = np.outer(np.ones(len(harmful)), r)
    delta = np.linalg.pinv(x.T @ x + regularisation * p.T @ p) @ x.T @ targets
    return p @ delta


@pytest.mark.parametrize(("num", "ratio"), [(20, 0.6), (90, 0.6), (20, 0.3), (90, 1.0)])
def test_the_rank_one_form_is_the_papers_map(num, ratio):
    draw = np.random.default_rng(num)
    d, r = 64, draw.normal(size=64)
    harmful, benign = draw.normal(size=(num, d)) + 1, draw.normal(size=(200, d))
    full = papers_map(harmful, benign, r, ratio)
    singular = np.linalg.svd(full, compute_uv=False)
    assert singular[1] < 1e-10 * singular[0], "the paper's map has rank 1"
    u = refusal_input(
        torch.tensor(harmful), torch.tensor(benign), null_space=ratio, regularisation=10.0
    )
    relative = np.abs(np.outer(u.numpy().astype(float), r) - full).max() / np.abs(full).max()
    assert u.dtype == torch.float32 and relative < 1e-6


def test_benign_states_in_few_directions_are_not_steered_and_harmful_ones_are():
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.normal(size=(32, 32)))[0]
    benign = draw.normal(size=(100, 8)) @ basis[:8]
    harmful = benign[:40] + 3 * basis[20]
    u = refusal_input(
        torch.tensor(harmful), torch.tensor(benign), null_space=0.7, regularisation=0.1
    ).numpy()
    assert np.abs(benign @ u).max() < 1e-5
    assert np.allclose(harmful @ u, 1, atol=0.01)


def test_every_layer_has_a_coefficient_of_its_own():
    sites = (Site(0), PACKED_SITE)
    part, talks = field(sites), [talk(0), talk(1)]
    passes = [pack(talks, [(0, 0, 7), (1, 0, 7)], site) for site in sites]
    state = part.init(2, passes[0].h)
    for i, x in enumerate(passes):
        x = x.with_h(x.h * (i + 1))  # another state in each layer
        state = part.observe(x, state)
        assert bool((state[:, i + 1 :] == 0).all())
    for i, x in enumerate(passes):
        h = torch.stack([t.states[t.prompt_length - 1] for t in talks]) * (i + 1)
        by_hand = np.outer((h @ part.inputs[i]).numpy(), part.outputs[i].numpy())
        assert np.allclose(part(x, state).numpy(), by_hand[x.request.numpy()], atol=1e-5)


def test_fitted_it_is_the_papers_map_of_the_models_states():
    model, data = tiny.llama(), rows()
    part = EXAMPLES[1].fit(model, data).synthesizer
    steered = [row for row in data.rows if row.behaviour == "harmful"]
    alone = [row for row in data.rows if row.behaviour != "harmful"]
    assert part.sites == (Site(1, "resid_pre"), Site(2, "resid_pre"))
    for i, site in enumerate(part.sites):
        harmful, benign = (prompt_states(model, side, site) for side in (steered, alone))
        # Fewer benign rows than directions: what they never use is in the null space.
        used = np.linalg.svd(benign, full_matrices=False)[2][: 32 - int(0.9 * 32)]
        p = np.eye(32) - used.T @ used
        x = harmful @ p
        u = p @ np.linalg.pinv(x.T @ x + 0.1 * p, rcond=1e-10) @ x.T @ np.ones(len(harmful))
        assert np.allclose(part.inputs[i].numpy(), u, atol=1e-4 * np.abs(u).max())
        r = mean_contrast(model, steered, site)
        assert np.allclose(part.outputs[i].numpy(), r, atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(RecipeError, match="null_space is 0"):
        AlphaSteer(layers=Layers(layers=(1,)), contrasts=RULE, null_space=0.0)
    with pytest.raises(RecipeError, match="regularisation is 0"):
        AlphaSteer(layers=Layers(layers=(1,)), contrasts=RULE, regularisation=0.0)
    with pytest.raises(RecipeError, match="1 sites, 2 contexts"):
        RankOneField(
            sites=(PACKED_SITE,), contexts=(Read(PACKED_SITE), Read(Site(0))),
            inputs=torch.ones(1, D), outputs=torch.ones(1, D),
        )  # fmt: skip


def test_the_recipe_for_the_bundled_world_is_this_method():
    text = (files("steersman.world") / "recipes" / "alphasteer.toml").read_text("utf-8")
    assert isinstance(parse_recipe(text, "alphasteer.toml").method, AlphaSteer)

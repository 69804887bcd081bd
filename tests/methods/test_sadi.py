from importlib.resources import files

import numpy as np
import pytest
import torch

import tiny
from captured import completion_states
from packing import SITE as PACKED_SITE
from packing import D, pack, talk
from steersman.core.errors import DataError, RecipeError
from steersman.core.recipe import parse_recipe
from steersman.core.types import Site
from steersman.methods.sadi import SADI, MaskedInput
from steersman.selectors.layers import Layers
from toy import RULE, rows

MASK = (torch.arange(D) % 3 == 0).float()[None]
EXAMPLES = [
    SADI(layers=Layers(layers=(1,)), contrasts=RULE, num_elements=8),
    SADI(layers=Layers(layers=(0, 1, 2)), contrasts=RULE, num_elements=20, behaviours=("harmful",)),
    MaskedInput(sites=(PACKED_SITE,), masks=MASK),
]


def test_the_vector_is_the_state_where_the_mask_is_one():
    x = pack([talk(0)], [(0, 0, 7)])
    assert np.array_equal(EXAMPLES[2](x, None).numpy(), x.h.numpy() * MASK.numpy())


def test_the_mask_is_the_top_elements_over_all_layers():
    model, data = tiny.llama(), rows()
    chosen = [row for row in data.rows if row.behaviour == "harmful"]
    differences = []
    for layer in range(3):
        positive, negative = completion_states(model, chosen, Site(layer))
        differences.append(np.abs(positive.mean(0) - negative.mean(0)))
    flat = np.stack(differences).ravel()
    by_hand = np.zeros(flat.size)
    by_hand[np.argsort(-flat)[:20]] = 1
    by_hand = by_hand.reshape(3, -1)
    part = EXAMPLES[1].fit(model, data).synthesizer
    found = np.zeros_like(by_hand)
    for site, mask in zip(part.sites, part.masks, strict=True):
        assert bool(mask.any())
        found[site.layer] = mask.numpy()
    assert found.sum() == 20 and np.array_equal(found, by_hand)


def test_what_cannot_be_is_refused():
    with pytest.raises(RecipeError, match="num_elements is 0"):
        SADI(layers=Layers(layers=(1,)), contrasts=RULE, num_elements=0)
    with pytest.raises(RecipeError, match="num_elements is 33, but 1 layers of width 32 have 32"):
        SADI(layers=Layers(layers=(1,)), contrasts=RULE, num_elements=33).fit(tiny.llama(), rows())
    with pytest.raises(DataError, match="nothing to learn from"):
        SADI(layers=Layers(layers=(1,)), contrasts=RULE, num_elements=3, behaviours=("x",)).fit(
            tiny.llama(), rows()
        )
    with pytest.raises(RecipeError, match="2 sites and 1 masks"):
        MaskedInput(sites=(PACKED_SITE, Site(0)), masks=MASK)


def test_the_recipe_for_the_bundled_world_is_this_method():
    text = (files("steersman.world") / "recipes" / "sadi.toml").read_text("utf-8")
    assert isinstance(parse_recipe(text, "sadi.toml").method, SADI)

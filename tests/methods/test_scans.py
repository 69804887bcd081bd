from importlib.resources import files

import numpy as np
import pytest
import torch

import tiny
from captured import mean_contrast, prompt_states
from packing import SITE as PACKED_SITE
from packing import D, pack, talk
from steersman.core.errors import RecipeError
from steersman.core.fitlog import FitLog
from steersman.core.recipe import parse_recipe
from steersman.core.types import Read, Site
from steersman.methods.scans import SCANS, SignedVector
from steersman.selectors.layers import Layers
from toy import READ, RULE, SITE, rows

DRAW = torch.Generator().manual_seed(0)
START = Read(SITE, generation_prompt=False)


def signed(threshold=0.0, **reads):
    draw = torch.Generator().manual_seed(1)
    taps = {"start": Read(PACKED_SITE, offset=-2), "end": Read(PACKED_SITE), **reads}
    return SignedVector(
        reference=torch.randn(D, generator=draw),
        threshold=threshold,
        sites=(PACKED_SITE,),
        vectors=torch.randn(1, D, generator=draw),
        **taps,
    )


EXAMPLES = [
    SCANS(layers=Layers(layers=(1,)), start=START, end=READ, contrasts=RULE),
    SCANS(layers=Layers(layers=(1, 2)), start=Read(SITE, offset=-3), end=READ, contrasts=RULE,
          behaviours=("harmful",), strength=0.5),
    signed(),
    signed(0.3, start=Read(PACKED_SITE), end=Read(PACKED_SITE, offset=-2)),
]  # fmt: skip


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_the_vector_is_added_above_the_threshold_and_taken_below():
    part, talks = signed(0.1), [talk(seed) for seed in range(12)]
    x = pack(talks, [(r, 0, len(t)) for r, t in enumerate(talks)])
    v = part(x, part.observe(x, part.init(len(talks), x.h)))
    signs = []
    for r, one in enumerate(talks):
        h, end = one.states.numpy().astype(np.float64), one.prompt_length - 1
        similar = cosine(h[end - 1] - h[end], part.reference.numpy())
        signs.append(1 if similar >= 0.1 else -1)
        mine = v[x.request == r].numpy()
        assert np.allclose(mine, signs[-1] * part.vectors.numpy(), atol=1e-6)
    assert set(signs) == {1, -1}


def test_the_two_tokens_may_come_in_different_passes_and_lie_in_different_layers():
    other = Site(0)
    part = signed(0.0, start=Read(other, offset=-2))
    one = talk(3)
    state = part.init(1, one.states)
    for site in (other, PACKED_SITE):
        for span in ((0, 0, 3), (0, 3, 5)):
            x = pack([one], [span], site)
            state = part.observe(x, state)
    assert torch.equal(state[0], one.states[[2, 3]])


def test_the_reference_is_the_mean_transition_of_harmful_rows_that_were_not_held_out():
    model, data, log = tiny.llama(), rows(), FitLog()
    part = EXAMPLES[1].fit(model, data, log).synthesizer
    start, end = (prompt_states(model, data.rows, SITE, skip) for skip in (2, 0))
    transition = start - end
    harmful = np.array([row.behaviour == "harmful" for row in data.rows])
    by_hand = np.array([cosine(t, part.reference.numpy().astype(float)) for t in transition])
    groups = log.records[0]["groups"]
    held = [int(np.abs(by_hand - s).argmin()) for side in groups.values() for s in side]
    assert len(set(held)) == len(held) >= 6
    kept = [i for i in range(len(data)) if harmful[i] and i not in held]
    assert 0 < len(kept) < harmful.sum()
    assert np.allclose(part.reference.numpy(), transition[kept].mean(0), atol=1e-5)
    chosen = [row for row in data.rows if row.behaviour == "harmful"]
    for site, vector in zip(part.sites, part.vectors, strict=True):
        assert np.allclose(vector.numpy(), mean_contrast(model, chosen, site), atol=1e-5)


def test_the_end_of_the_users_turn_is_where_the_transition_begins():
    model, data = tiny.llama(), rows(12)
    by_flag = EXAMPLES[0].fit(model, data).synthesizer.reference
    by_offset = SCANS(
        layers=Layers(layers=(1,)), start=Read(SITE, offset=-3), end=READ, contrasts=RULE
    )
    # The tiny template opens the assistant's turn with two tokens.
    assert torch.allclose(by_flag, by_offset.fit(model, data).synthesizer.reference, atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(RecipeError, match="no transition"):
        signed(start=Read(PACKED_SITE))
    with pytest.raises(RecipeError, match="1 sites and 2 vectors"):
        SignedVector(
            start=START, end=READ, reference=torch.ones(D), threshold=0.0, sites=(SITE,),
            vectors=torch.ones(2, D),
        )  # fmt: skip


def test_the_recipe_for_the_bundled_world_is_this_method():
    text = (files("steersman.world") / "recipes" / "scans.toml").read_text("utf-8")
    assert isinstance(parse_recipe(text, "scans.toml").method, SCANS)

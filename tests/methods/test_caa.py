import numpy as np

import tiny
from steersman.core.types import Position, Scope
from steersman.data.contrast import pair
from steersman.methods.caa import CAA
from steersman.selectors.layers import Layers
from toy import RULE, rows

EXAMPLES = [
    CAA(layers=Layers(layers=(0, 2)), contrasts=RULE),
    CAA(layers=Layers(layers=(1,)), contrasts=RULE, behaviour="expert", scope=Scope.GENERATED),
]


def states(model, data, sites):
    """h+ and h- of every steered row at the completion's last token, by site, in numpy."""
    pairs = [pair(r, RULE.behaviours[r.behaviour]) for r in data.rows if r.behaviour != "none"]
    sides = ([p for p, _ in pairs], [n for _, n in pairs])
    at = Position("completion", "last")
    read = [model.capture(side, sites, at) for side in sides]
    return {s: tuple(side[s].double().numpy() for side in read) for s in sites}


def test_each_layer_has_the_mean_difference_at_the_answer_token():
    model, data = tiny.llama(), rows(9)
    harmful = data.__class__(
        rows=tuple(r for r in data.rows if r.behaviour != "expert"), meta={}, hash="", source="t"
    )
    steerer = EXAMPLES[0].fit(model, harmful)
    by_hand = {s: (p - n).mean(0) for s, (p, n) in states(model, harmful, steerer.sites).items()}
    assert [s.layer for s in steerer.sites] == [0, 2]
    for site, vector in zip(steerer.sites, steerer.synthesizer.vectors.numpy(), strict=True):
        assert np.allclose(vector, by_hand[site], atol=1e-5)


def test_behaviours_are_averaged_with_their_norms_matched():
    model, data = tiny.llama(), rows(9)
    steerer = EXAMPLES[0].fit(model, data)
    behaviours = np.array([r.behaviour for r in data.rows if r.behaviour != "none"])
    for site, vector in zip(steerer.sites, steerer.synthesizer.vectors.numpy(), strict=True):
        positive, negative = states(model, data, [site])[site]
        z = positive - negative
        length = np.linalg.norm(z, axis=1)
        first, second = (length[behaviours == b].mean() for b in ("harmful", "expert"))
        z[behaviours == "expert"] *= first / second
        assert np.allclose(vector, z.mean(0), atol=1e-5)

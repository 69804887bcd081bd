from dataclasses import replace

import numpy as np
import pytest

import tiny
from steersman.core.errors import DataError, RecipeError
from steersman.core.types import Position, Site
from steersman.data.contrast import Contrast, pair
from steersman.methods.clamp import DirectionalClamp
from steersman.methods.contrast import ContrastRule
from steersman.methods.mean import MeanVector
from toy import RULE, SITE, rows

EXAMPLES = [
    DirectionalClamp(site=SITE, contrasts=RULE),
    DirectionalClamp(site=SITE, contrasts=RULE, behaviour="harmful", high_quantile=0.5),
]


def test_the_interval_is_where_the_wanted_sides_lie():
    model, data = tiny.llama(), rows(24)
    steerer = EXAMPLES[1].fit(model, data)
    steered = [r for r in data.rows if r.behaviour != "none"]
    pairs = [pair(r, RULE.behaviours["harmful"]) for r in steered]
    at = Position("completion", "last")
    positive, negative = (
        model.capture([x[i] for x in pairs], [SITE], at)[SITE].double().numpy() for i in (0, 1)
    )
    z = positive - negative
    length, mine = np.linalg.norm(z, axis=1), np.array([r.behaviour == "harmful" for r in steered])
    vector = (z * np.where(mine, 1, length[mine].mean() / length[~mine].mean())[:, None]).mean(0)
    along = positive @ vector / np.linalg.norm(vector)
    assert np.allclose(steerer.synthesizer.vectors[0].numpy(), vector, atol=1e-5)
    made = [steerer.operator.low, steerer.operator.high]
    assert np.allclose(made, np.quantile(along, [0.25, 0.5]), atol=1e-5)


def test_by_default_the_upper_end_is_the_largest_projection():
    operator = EXAMPLES[0].fit(tiny.llama(), rows()).operator
    narrow = EXAMPLES[1].fit(tiny.llama(), rows()).operator
    assert operator.high > operator.low and narrow.high > narrow.low


@pytest.mark.parametrize("method", [DirectionalClamp, MeanVector])
def test_completions_that_end_alike_give_no_direction_before_the_first_block(method):
    ends_alike = Contrast(positive="a the", negative="b the")
    rule = ContrastRule(behaviours=dict.fromkeys(RULE.behaviours, ends_alike))
    recipe = method(site=Site(0, "resid_pre"), contrasts=rule)
    with pytest.raises(DataError, match=r"zero at resid_pre\[0\]: both completions"):
        recipe.fit(tiny.llama(), rows())
    assert replace(recipe, site=SITE).fit(tiny.llama(), rows()).sites == (SITE,)


@pytest.mark.parametrize("low, high", [(0.6, 0.5), (-0.1, 0.5), (0.1, 1.5)])
def test_quantiles_out_of_order_are_refused(low, high):
    with pytest.raises(RecipeError, match="between 0 and 1"):
        DirectionalClamp(site=SITE, contrasts=RULE, low_quantile=low, high_quantile=high)

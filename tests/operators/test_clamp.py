import numpy as np
import pytest
import torch

from steersman.core.errors import RecipeError
from steersman.operators.clamp import Clamp

EXAMPLES = [Clamp(low=-0.1, high=0.1)]


def test_projections_end_inside_the_interval_and_the_rest_stays():
    h, v = 3 * torch.randn(50, 8), 5 * torch.randn(1, 8)
    made = Clamp(low=-1.0, high=0.5)(h, v, torch.ones(50)).numpy()
    r = (v / v.norm())[0].numpy()
    along = h.numpy() @ r
    by_hand = h.numpy() + np.outer(np.clip(along, -1.0, 0.5) - along, r)
    assert np.allclose(made, by_hand, atol=1e-5)


def test_a_token_in_range_keeps_its_bits():
    h, v = torch.randn(200, 8), torch.randn(1, 8)
    along = h @ (v / v.norm())[0]
    made = Clamp(low=-0.5, high=0.5)(h, v, torch.ones(200))
    inside = (along > -0.49) & (along < 0.49)
    assert 20 < int(inside.sum()) < 180
    assert torch.equal(made[inside], h[inside])
    assert bool((made[along.abs() > 0.51] != h[along.abs() > 0.51]).any(1).all())


def test_half_strength_goes_half_the_way():
    made = Clamp(low=2.0, high=2.0)(
        torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]), torch.full((1,), 0.5)
    )
    assert torch.allclose(made, torch.tensor([[1.0, 0.0]]))


def test_an_interval_upside_down_is_refused():
    with pytest.raises(RecipeError, match=r"low is 2\.0 and high is 1\.0"):
        Clamp(low=2.0, high=1.0)
    with pytest.raises(RecipeError, match="finite"):
        Clamp(low=0.0, high=float("inf"))

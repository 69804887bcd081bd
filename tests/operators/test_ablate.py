import numpy as np
import torch

from steersman.operators.ablate import Ablate

EXAMPLES = [Ablate()]


def test_strength_one_leaves_nothing_along_the_vector():
    h, v = torch.randn(6, 8), 7 * torch.randn(1, 8)
    made = Ablate()(h, v, torch.ones(6)).numpy()
    r = (v / v.norm())[0].numpy()
    by_hand = h.numpy() - np.outer(h.numpy() @ r, r)
    assert np.allclose(made, by_hand, atol=1e-5)
    assert np.abs(made @ r).max() < 1e-5


def test_strength_two_mirrors_and_each_token_has_its_own():
    h, v = torch.randn(3, 8), torch.randn(3, 8)
    made = Ablate()(h, v, torch.tensor([0.0, 0.5, 2.0]))
    along, before = (made * v).sum(1), (h * v).sum(1)
    assert torch.equal(made[0], h[0])
    assert torch.allclose(along, before * torch.tensor([1.0, 0.5, -1.0]), atol=1e-5)


def test_a_zero_vector_takes_nothing_away():
    h = torch.randn(2, 8)
    assert torch.equal(Ablate()(h, torch.zeros(1, 8), torch.ones(2)), h)

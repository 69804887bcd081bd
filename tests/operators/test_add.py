import torch

from steersman.operators.add import Add

EXAMPLES = [Add()]


def test_it_adds_by_token():
    h, v = torch.randn(3, 4), torch.randn(1, 4)
    made = Add()(h, v, torch.tensor([0.0, 1.0, -2.0]))
    assert torch.allclose(made, torch.stack([h[0], h[1] + v[0], h[2] - 2 * v[0]]))


def test_half_precision_is_added_in_float32():
    h = torch.full((1, 1), 256.0, dtype=torch.bfloat16)
    made = Add()(h, torch.full((1, 1), 3.0), torch.tensor([0.5]))
    assert made.dtype == torch.bfloat16
    assert float(made) == float(torch.tensor(257.5, dtype=torch.bfloat16))

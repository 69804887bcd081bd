import math

import numpy as np
import pytest
import torch

from steersman.operators.rotate import Rotate

B2 = torch.randn(8, generator=torch.Generator().manual_seed(3))
EXAMPLES = [Rotate(b2=B2), Rotate(b2=B2, angle_deg=200.0)]


def plane(v, b2):
    b1 = v / np.linalg.norm(v)
    rest = b2 - (b2 @ b1) * b1
    return b1, rest / np.linalg.norm(rest)


@pytest.mark.parametrize("angle", [0.0, 90.0, 200.0, -30.0])
def test_strength_one_is_the_papers_formula(angle):
    h, v = torch.randn(20, 8), 4 * torch.randn(1, 8)
    made = Rotate(b2=B2, angle_deg=angle)(h, v, torch.ones(20)).numpy()
    b1, b2 = plane(v[0].numpy(), B2.numpy())
    inside = np.outer(h.numpy() @ b1, b1) + np.outer(h.numpy() @ b2, b2)
    length = np.linalg.norm(inside, axis=1)
    where = math.cos(math.radians(angle)) * b1 + math.sin(math.radians(angle)) * b2
    assert np.allclose(made, h.numpy() - inside + np.outer(length, where), atol=1e-5)


def test_strength_moves_along_the_shorter_arc_and_keeps_the_length():
    v, b2 = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.0, 1.0, 0.0])
    begin = math.radians(170)
    h = torch.tensor([[math.cos(begin), math.sin(begin), 2.0]]).repeat(3, 1)
    made = Rotate(b2=b2, angle_deg=-150.0)(h, v, torch.tensor([0.25, 0.5, 1.0]))
    angles = torch.rad2deg(torch.atan2(made[:, 1], made[:, 0])) % 360
    assert torch.allclose(angles, torch.tensor([180.0, 190.0, 210.0]), atol=1e-3)
    assert torch.allclose(made.norm(dim=1), h.norm(dim=1), atol=1e-6)
    assert torch.equal(made[:, 2], h[:, 2])


def test_a_state_without_a_part_in_the_plane_stays_and_is_a_number():
    v, b2 = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.0, 1.0, 0.0])
    h = torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    assert torch.equal(Rotate(b2=b2, angle_deg=45.0)(h, v, torch.ones(2)), h)

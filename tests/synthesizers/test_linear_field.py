import numpy as np
import pytest
import torch

from packing import SITE, D, pack, talk
from steersman.synthesizers.linear_field import LinearField, LowRankField

DRAW = torch.Generator().manual_seed(0)
MATRIX = torch.eye(D) + 0.3 * torch.randn(D, D, generator=DRAW)
LEFT, RIGHT = torch.randn(D, 2, generator=DRAW), 0.3 * torch.randn(2, D, generator=DRAW)

EXAMPLES = [LinearField(matrix=MATRIX), LowRankField(left=LEFT, right=RIGHT)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_field_is_the_matrix_times_each_state(dtype):
    x = pack([talk(3, dtype=dtype)], [(0, 0, 7)], SITE)
    h = x.h.float().numpy()
    by_hand = np.stack([MATRIX.numpy() @ row for row in h])
    made = EXAMPLES[0](x, None)
    assert made.dtype == torch.float32
    assert np.allclose(made.numpy(), by_hand, atol=1e-5)


@pytest.mark.parametrize("identity", [0.0, 1.0, -0.5])
def test_factors_give_what_their_product_gives(identity):
    x = pack([talk(3)], [(0, 0, 7)], SITE)
    whole = identity * np.eye(D) + LEFT.numpy() @ RIGHT.numpy()
    made = LowRankField(left=LEFT, right=RIGHT, identity=identity)(x, None)
    assert np.allclose(made.numpy(), x.h.numpy() @ whole.T, atol=1e-5)

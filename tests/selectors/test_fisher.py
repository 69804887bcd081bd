import numpy as np
import pytest
import torch

from steersman.selectors.fisher import Fisher

EXAMPLES = [Fisher()]


def streamed(positive, negative, block, chunk=7):
    state = EXAMPLES[0].init(positive.shape[1], int(block.max()) + 1)
    for start in range(0, len(block), chunk):
        part = slice(start, start + chunk)
        state = EXAMPLES[0].update(state, positive[part], negative[part], block[part])
    return EXAMPLES[0].finish(state)


def by_hand(positive, negative):
    p, n = positive.double().numpy(), negative.double().numpy()
    between = np.sum((p.mean(0) - n.mean(0)) ** 2)
    return between / (np.trace(np.cov(p.T)) + np.trace(np.cov(n.T)))


def sides(offset=0.0):
    draw = torch.Generator().manual_seed(1)
    positive = torch.randn(30, 5, generator=draw) + 0.5 + offset
    return positive, 2 * torch.randn(30, 5, generator=draw) + offset, torch.arange(30) % 6


def test_it_is_the_formula_with_and_without_each_block():
    positive, negative, block = sides()
    value, without = streamed(positive, negative, block)
    assert value == pytest.approx(by_hand(positive, negative), rel=1e-9)
    wanted = [by_hand(positive[block != b], negative[block != b]) for b in range(6)]
    assert without.tolist() == pytest.approx(wanted, rel=1e-9)


def test_a_large_common_offset_does_not_drown_the_spread():
    """Residual streams have coordinates in the thousands."""
    positive, negative, block = sides(offset=3000.0)
    value, _ = streamed(positive, negative, block)
    assert value == pytest.approx(by_hand(positive, negative), rel=1e-6)


def test_states_that_are_all_the_same_score_nothing():
    same = torch.full((30, 5), 3.7)
    value, without = streamed(same, same, torch.arange(30) % 6)
    assert abs(value) < 1e-6 and float(without.abs().max()) < 1e-6

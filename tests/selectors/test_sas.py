import numpy as np
import pytest
import torch

from steersman.selectors.sas import SafetyAwareness

EXAMPLES = [SafetyAwareness()]


def streamed(score, positive, negative, block, chunk=7):
    """The score of pairs that come in chunks."""
    state = score.init(positive.shape[1], int(block.max()) + 1)
    for start in range(0, len(block), chunk):
        part = slice(start, start + chunk)
        state = score.update(state, positive[part], negative[part], block[part])
    return score.finish(state)


def by_pairs(positive, negative):
    """Eq. 8, cosine by cosine."""
    delta = positive.double().numpy() - negative.double().numpy()
    cosines = []
    for i in range(len(delta)):
        for j in range(i + 1, len(delta)):
            size = np.linalg.norm(delta[i]) * np.linalg.norm(delta[j])
            cosines.append(delta[i] @ delta[j] / size if size else 0.0)
    return np.mean(cosines)


def pairs(num=24, width=6, shift=0.7):
    draw = torch.Generator().manual_seed(0)
    positive = torch.randn(num, width, generator=draw) + shift
    return positive, torch.randn(num, width, generator=draw), torch.arange(num) * 5 // num


def test_it_is_the_mean_cosine_of_all_pairs():
    positive, negative, block = pairs()
    value, _ = streamed(EXAMPLES[0], positive, negative, block)
    assert value == pytest.approx(by_pairs(positive, negative), abs=1e-6)
    assert value > 0.1


def test_without_a_block_it_is_the_score_of_the_other_pairs():
    positive, negative, block = pairs()
    _, without = streamed(EXAMPLES[0], positive, negative, block)
    wanted = [by_pairs(positive[block != b], negative[block != b]) for b in range(5)]
    assert without.tolist() == pytest.approx(wanted, abs=1e-6)


def test_a_pair_without_a_difference_has_no_direction():
    """Before the first block the last token of every prompt is the same."""
    positive, negative, block = pairs()
    negative[::3] = positive[::3]
    value, _ = streamed(EXAMPLES[0], positive, negative, block)
    assert value == pytest.approx(by_pairs(positive, negative), abs=1e-6)
    assert streamed(EXAMPLES[0], positive, positive, block)[0] == 0


def test_one_block_leaves_nothing_to_score():
    positive, negative, _ = pairs()
    _, without = streamed(EXAMPLES[0], positive, negative, torch.zeros(24, dtype=torch.long))
    assert without.isnan().all()

import pytest
import torch

from steersman.core.errors import DataError, RecipeError
from steersman.selectors.probe_auroc import ProbeAUROC

EXAMPLES = [ProbeAUROC(), ProbeAUROC(folds=2, c=1.0)]


def streamed(score, positive, negative, block):
    state = score.init(positive.shape[1], int(block.max()) + 1)
    for part in torch.arange(len(block)).split(9):
        state = score.update(state, positive[part], negative[part], block[part])
    return score.finish(state)


def sides(shift, num=60):
    draw = torch.Generator().manual_seed(2)
    positive = torch.randn(num, 8, generator=draw)
    positive[:, 0] += shift
    return positive, torch.randn(num, 8, generator=draw), torch.arange(num) % 10


def test_sides_that_lie_apart_score_one_and_mixed_ones_a_half():
    assert streamed(EXAMPLES[0], *sides(12.0))[0] == pytest.approx(1.0)
    assert streamed(EXAMPLES[0], *sides(0.0))[0] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("score", EXAMPLES)
def test_what_only_a_cluster_shares_does_not_help(score):
    """A probe that had seen the cluster could read the side off the cluster's own direction."""
    draw = torch.Generator().manual_seed(3)
    own = 20 * torch.randn(10, 64, generator=draw)
    block = torch.arange(60) % 10
    positive = own[block] + torch.randn(60, 64, generator=draw)
    negative = -own[block] + torch.randn(60, 64, generator=draw)
    assert streamed(score, positive, negative, block)[0] < 0.8


def test_without_a_block_the_others_scores_are_ranked():
    positive, negative, block = sides(1.0)
    value, without = streamed(EXAMPLES[0], positive, negative, block)
    assert without.shape == (10,) and float(without.std()) > 0
    # of about as many pairs in every block, the mean lies at the whole
    assert float(without.mean()) == pytest.approx(value, abs=0.02)


def test_one_block_cannot_be_held_out():
    positive, negative, _ = sides(1.0)
    with pytest.raises(DataError, match="1 clusters cannot be held out"):
        streamed(EXAMPLES[0], positive, negative, torch.zeros(60, dtype=torch.long))


def test_settings_without_sense_are_refused():
    with pytest.raises(RecipeError, match="folds is 1"):
        ProbeAUROC(folds=1)

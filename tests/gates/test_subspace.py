import numpy as np
import pytest
import torch

from packing import READ, D, Talk, pack, run
from steersman.core.errors import RecipeError
from steersman.core.steerer import Steerer
from steersman.gates.subspace import Logistic, Quantile, SubspaceGate
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector

RATIOS = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
LOGISTIC = Logistic(weight=12.0, bias=-4.0)


def gate(curve=LOGISTIC, k=3, seed=0, **fields):
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, k, generator=draw))[0].T.contiguous()
    mean = 0.3 * torch.randn(D, generator=draw)
    return SubspaceGate(read=READ, basis=basis, mean=mean, curve=curve, **fields)


EXAMPLES = [
    gate(),
    gate(opening="hard", floor=0.5),
    gate(Quantile(RATIOS, epsilon=0.5, gamma=2.0)),
    gate(Quantile(RATIOS, epsilon=0.25), seed=1, opening="hard", floor=1.0),
]


def ratio_by_hand(one, context):
    made = []
    for h in context.numpy():
        z = h - one.mean.numpy()
        inside = sum(float(v @ z) ** 2 for v in one.basis.numpy())
        made.append(inside / float(z @ z))
    return np.array(made)


def test_the_ratio_is_the_formula_and_lies_between_0_and_1():
    one, context = gate(), torch.randn(300, D, generator=torch.Generator().manual_seed(2))
    s = one.ratio(context)
    assert np.allclose(s.numpy(), ratio_by_hand(one, context), atol=1e-5)
    assert 0 <= float(s.min()) < 0.2 and 0.8 < float(s.max()) <= 1


def test_the_ratio_at_the_ends():
    one = gate()
    across = torch.linalg.qr(torch.cat([one.basis, torch.eye(D)]).T)[0][:, 3]
    ends = torch.stack([one.mean + 5 * one.basis[1], one.mean + 5 * across, one.mean])
    assert one.ratio(ends).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-5)


def test_turning_the_basis_changes_nothing():
    one, context = gate(), torch.randn(50, D)
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    other = SubspaceGate(read=READ, basis=turn @ one.basis, mean=one.mean, curve=one.curve)
    assert torch.allclose(one.ratio(context), other.ratio(context), atol=1e-5)


def test_the_distribution_is_that_of_the_reference_at_its_points():
    curve = Quantile(RATIOS)
    steps = [float((s >= RATIOS).float().mean()) for s in RATIOS]
    assert curve.distribution(RATIOS).tolist() == pytest.approx(steps)
    between = curve.distribution(torch.tensor([0.0, 0.05, 0.25, 0.9, 1.0]))
    assert between.tolist() == pytest.approx([0.0, 1 / 16, 2.5 / 8, 1.0, 1.0])


def test_the_quantile_curve_by_hand_and_continuous_at_tau():
    curve = Quantile(RATIOS, epsilon=0.25, gamma=2.0)  # tau = 0.2
    s = torch.tensor([0.1, 0.15, 0.2, 0.21, 0.9])
    assert curve(s).tolist() == pytest.approx([0.25, 0.75**2, 1.0, 1.0, 1.0])
    near = curve(torch.tensor([0.2 - 1e-4, 0.2 + 1e-4]))
    assert float((near[1] - near[0]).abs()) < 2e-3
    everywhere = curve(torch.linspace(0, 1, 2001))
    assert float(everywhere.diff().min()) >= 0 and float(everywhere.diff().max()) < 0.01


def test_equal_ratios_do_not_divide_by_zero():
    curve = Quantile(torch.tensor([0.0, 0.5, 0.5, 1.0]), epsilon=0.5, gamma=1.0)
    assert curve(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("opening", ["hard", "graded"])
def test_below_the_floor_it_is_exactly_zero(opening):
    one, context = gate(opening=opening, floor=0.4), torch.randn(300, D)
    p = 1 / (1 + np.exp(-(12.0 * ratio_by_hand(one, context) - 4.0)))
    g = one.decide(context).numpy()
    assert 20 < int((p < 0.4).sum()) < 280
    assert (g[p < 0.4 - 1e-5] == 0).all()
    wanted = np.ones_like(p) if opening == "hard" else p
    assert np.allclose(g[p > 0.4 + 1e-5], wanted[p > 0.4 + 1e-5], atol=1e-4)


def test_a_request_below_the_floor_keeps_its_bits():
    """The paper's soft gate never closes; ours does."""
    one = gate(floor=0.5)
    inside, outside = one.mean + one.basis[0], one.mean - one.basis[0]
    outside = outside + 9 * (torch.ones(D) - one.basis.T @ (one.basis @ torch.ones(D)))
    talks = [Talk(torch.stack([torch.randn(D), h, torch.randn(D)]), 2) for h in (inside, outside)]
    steerer = Steerer(
        sites=(READ.site,),
        gate=one,
        synthesizer=StaticVector(sites=(READ.site,), vectors=torch.ones(1, D)),
        operator=Add(),
    )
    made = run(steerer, talks, [[(0, 0, 3), (1, 0, 3)]], [1.0, 1.0])
    assert not torch.equal(made[0, 1], talks[0].states[1])
    assert all(torch.equal(made[1, p], talks[1].states[p]) for p in range(3))
    x = pack(talks, [(0, 0, 3), (1, 0, 3)])
    state = one.observe(x, one.init(2, x.h))
    assert float(state[0]) == pytest.approx(1 / (1 + np.exp(-8.0)), abs=1e-5)
    assert float(state[1]) == 0.0


def test_settings_outside_are_refused():
    with pytest.raises(RecipeError, match=r"floor is 0\.0"):
        gate(floor=0.0)
    with pytest.raises(RecipeError, match=r"epsilon is 1\.5"):
        Quantile(RATIOS, epsilon=1.5)

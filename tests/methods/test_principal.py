import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, TruncatedSVD

from steersman.core.ops import unit
from steersman.methods import principal as module
from steersman.methods.principal import (
    about_mean,
    about_origin,
    completed,
    leading,
    principal,
)

SHAPES = [(30, 80), (400, 40), (60, 60)]  # few rows, many rows, as many as dimensions


def matrix(n, d, seed=0):
    """Energies that fall, about a mean that is not zero."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=draw) * torch.linspace(3, 0.1, d)
    return x @ torch.linalg.qr(torch.randn(d, d, generator=draw)).Q + 2


@pytest.fixture(autouse=True)
def in_several_parts(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_the_directions_are_those_of_a_singular_value_decomposition(n, d):
    x = matrix(n + 5, d)
    chosen = torch.randperm(n + 5, generator=torch.Generator().manual_seed(1))[:n]
    rows = x[chosen].double().numpy()
    for some, centred in (
        (about_mean(x, chosen), rows - rows.mean(0)),
        (about_origin(x, chosen), rows),
    ):
        found = principal(some)
        _, size, right = np.linalg.svd(centred, full_matrices=False)
        num = len(found.energy)
        assert num == np.linalg.matrix_rank(centred)
        assert np.allclose(found.energy.numpy(), size[:num] ** 2, rtol=1e-6)
        made = found.directions(num).numpy()
        assert np.allclose(np.abs((made * right[:num]).sum(1)), 1, atol=1e-6)
        assert np.allclose(made @ made.T, np.eye(num), atol=1e-10)
        assert np.allclose(found.directions(3).numpy(), made[:3], atol=1e-10)


def test_a_view_is_what_the_directions_are_of():
    x = matrix(50, 20)
    signs = torch.tensor([[1.0], [-1.0]]).repeat(25, 1)
    found = principal(about_mean(x, torch.arange(50), lambda rows, at: signs[at] * unit(rows)))
    by_hand = PCA(1, svd_solver="full").fit((signs * unit(x)).double().numpy()).components_[0]
    assert abs(float(found.directions(1)[0].numpy() @ by_hand)) == pytest.approx(1, abs=1e-9)


def test_directions_without_energy_are_left_out_or_arbitrary():
    x = matrix(6, 20)[[0, 1, 2, 0, 1, 2]]
    found = principal(about_mean(x, torch.arange(6)))
    assert len(found.energy) == 2 == len(found.directions(5))
    whole = completed(found.directions(5), 5)
    assert torch.equal(whole[:2], found.directions(2))
    assert torch.allclose(whole @ whole.T, torch.eye(5).double(), atol=1e-12)
    same = principal(about_mean(x[:1].expand(6, 20), torch.arange(6)))
    assert len(same.energy) == len(same.directions(3)) == 0


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_the_randomised_search_is_that_of_scikit_learn(n, d):
    """The same draws and steps, with the rows in parts: what recipes gave, they give."""
    x = matrix(n, d)
    centred = (x - x.mean(0)).numpy()
    wanted = TruncatedSVD(8, random_state=3).fit(centred).components_
    made = leading(about_mean(x, torch.arange(n)), 8, seed=3, iterations=5).numpy()
    assert np.allclose(made, wanted, atol=1e-4)
    assert np.allclose(made @ made.T, np.eye(8), atol=1e-5)

from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from steersman.core.errors import DataError
from steersman.core.types import Position
from steersman.data.contrast import pair
from steersman.data.rows import Dataset
from steersman.methods.repe import RepE
from steersman.selectors.layers import Layers
from toy import RULE, SITE, rows

EXAMPLES = [
    RepE(layers=Layers(layers=(1, 2)), contrasts=RULE),
    RepE(layers=Layers(layers=(1,)), contrasts=RULE, norm="unit", behaviour="harmful", seed=1),
]


def harmful(num=24):
    chosen = tuple(r for r in rows(num).rows if r.behaviour == "harmful")
    return Dataset(rows=chosen, meta={}, hash="h", source="toy")


def differences(model, data):
    pairs = [pair(r, RULE.behaviours["harmful"]) for r in data.rows]
    at = Position("completion", "last")
    p, n = (model.capture([x[i] for x in pairs], [SITE], at)[SITE] for i in (0, 1))
    return (p - n).double().numpy()


def test_it_is_the_first_principal_component_of_unit_differences():
    model, data = tiny.llama(), harmful()
    z = differences(model, data)
    draw = torch.Generator().manual_seed(1)
    signs = 2 * torch.randint(0, 2, (len(z), 1), generator=draw).numpy() - 1
    assert len(set(signs[:, 0])) == 2
    x = signs * z / np.linalg.norm(z, axis=1, keepdims=True)
    x = x - x.mean(0)
    values, vectors = np.linalg.eigh(x.T @ x)
    assert values[-1] > 1.01 * values[-2]
    first = vectors[:, -1] * np.sign((z @ vectors[:, -1]).mean())
    fitted = EXAMPLES[1].fit(model, data).synthesizer.vectors[0].numpy()
    assert np.allclose(fitted, first, atol=1e-4)
    longer = replace(EXAMPLES[1], norm="mean").fit(model, data).synthesizer.vectors[0].numpy()
    assert np.allclose(longer, np.linalg.norm(z, axis=1).mean() * first, atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_order_of_the_pairs_it_points_to_the_wanted_side(seed):
    model, data = tiny.llama(), harmful()
    method = replace(EXAMPLES[1], seed=seed)
    vector = method.fit(model, data).synthesizer.vectors[0].double().numpy()
    assert (differences(model, data) @ vector).mean() > 0


def test_one_row_has_no_principal_component():
    with pytest.raises(DataError, match="two rows"):
        EXAMPLES[0].fit(tiny.llama(), harmful(2))

"""The watch for host syncs sees each of them, and nothing else."""

import pytest
import torch

from conformance.waiting import Waits

X, INDEX = torch.arange(4.0), torch.tensor([0, 2])
WAITING = {
    "item": lambda: X[0].item(),
    "bool": lambda: bool(X[1] > 0),
    "if": lambda: 1 if X[1] else 0,
    "int": lambda: int(X[1]),
    "float": lambda: float(X[1]),
    "index": lambda: [7, 8, 9][INDEX[1]],
    "tolist": lambda: X.tolist(),
    "cpu": lambda: X.cpu(),
    "to cpu": lambda: X.to("cpu"),
    "numpy": lambda: X.numpy(),
    "nonzero": lambda: X.nonzero(),
    "where": lambda: torch.where(X > 1),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "masked_select": lambda: X.masked_select(X > 1),
    "mask": lambda: X[X > 1],
    "put by mask": lambda: X.clone().__setitem__(X > 1, torch.zeros(2)),
    "unique": lambda: X.unique(),
    "repeats": lambda: X.repeat_interleave(INDEX.repeat(2)),
    "any": lambda: bool((X > 1).any()),
}
STAYING = {
    "where": lambda: torch.where(X > 1, X, 0.0),
    "index": lambda: X[INDEX],
    "to its own device": lambda: X.to(X.device),
    "to a type": lambda: X.to(torch.bfloat16).float(),
    "repeats": lambda: X.repeat_interleave(2),
    "sum": lambda: X.new_zeros(3).index_add(0, INDEX, X[:2]),
    "shape": lambda: X.reshape(2, 2).shape[0] > 1,
}


@pytest.mark.parametrize("name", WAITING)
def test_what_asks_for_values_is_seen(name):
    with Waits() as waits:
        WAITING[name]()
    assert waits.seen


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_on_the_device_is_not(name):
    with Waits() as waits:
        STAYING[name]()
    assert waits.seen == []

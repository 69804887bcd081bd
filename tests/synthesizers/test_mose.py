from dataclasses import replace

import numpy as np
import pytest
import torch

from packing import READ, D
from steersman.synthesizers.mose import SteeringMixture


def mixture(experts=3, width=4, residual=2, hidden=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sizes = {
        "prototypes": (experts, D),
        "keys": (experts, width),
        "query": (width, D),
        "query_bias": (width,),
        "residual": (residual, D),
        "weight1": (hidden, D),
        "bias1": (hidden,),
        "weight2": (residual, hidden),
        "bias2": (residual,),
    }
    made = {name: torch.randn(*size, generator=draw) for name, size in sizes.items()}
    return SteeringMixture(read=READ, **made)


EXAMPLES = [mixture(), mixture(residual=0, hidden=0, seed=1)]


def by_hand(part, context):
    """The minimal reference of the paper's Eqs. 11 to 13, one row at a time."""
    p = {k: v.numpy().astype(np.float64) for k, v in vars(part).items() if k != "read"}
    made = []
    for h in context.double().numpy():
        scores = [(p["query"] @ h + p["query_bias"]) @ key / 2.0 for key in p["keys"]]  # sqrt(4)
        a = np.exp(scores) / np.exp(scores).sum()
        beta = p["weight2"] @ np.maximum(p["weight1"] @ h + p["bias1"], 0) + p["bias2"]
        made.append(p["prototypes"].T @ a + p["residual"].T @ beta)
    return np.array(made)


@pytest.mark.parametrize("part", EXAMPLES, ids=["residual", "experts alone"])
def test_the_vector_is_the_formula(part):
    context = torch.randn(6, D)
    assert np.allclose(part.synthesize(context).numpy(), by_hand(part, context), atol=1e-4)


def test_the_experts_weights_sum_to_one_and_without_residual_span_the_vector():
    part, context = EXAMPLES[1], torch.randn(6, D)
    weights = part.weights(context)
    assert weights.shape == (6, 3) and torch.allclose(weights.sum(1), torch.ones(6))
    assert torch.allclose(part.synthesize(context), weights @ part.prototypes, atol=1e-5)


def test_one_expert_without_residual_is_a_static_vector():
    part = mixture(experts=1, residual=0, hidden=0)
    made = part.synthesize(torch.randn(4, D))
    assert torch.allclose(made, part.prototypes.expand(4, D))


def test_the_residual_adds_to_what_the_experts_give():
    part, context = EXAMPLES[0], torch.randn(4, D)
    without = replace(part, residual=torch.zeros_like(part.residual)).synthesize(context)
    beta = torch.relu(context @ part.weight1.T + part.bias1) @ part.weight2.T + part.bias2
    made = part.synthesize(context)
    assert torch.allclose(made - without, beta @ part.residual, atol=1e-4)

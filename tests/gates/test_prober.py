import pytest
import torch

from packing import READ, D, pack, talk
from steersman.core.errors import RecipeError
from steersman.gates.prober import ProberGate


def prober(threshold=0.5, opening="hard", seed=0):
    draw = torch.Generator().manual_seed(seed)
    return ProberGate(
        read=READ,
        mean=torch.zeros(D),
        scale=torch.ones(D),
        weight1=torch.randn(4, D, generator=draw),
        bias1=torch.randn(4, generator=draw),
        weight2=torch.randn(4, generator=draw),
        bias2=torch.randn(1, generator=draw),
        threshold=threshold,
        opening=opening,
    )


EXAMPLES = [prober(0.5), prober(0.2, "graded", 1)]


def test_probability_is_the_formula():
    gate, context = prober(), torch.randn(5, D)
    by_hand = torch.stack(
        [
            torch.sigmoid(torch.relu(gate.weight1 @ h + gate.bias1) @ gate.weight2 + gate.bias2[0])
            for h in context
        ]
    )
    assert torch.allclose(gate.probability(context), by_hand, atol=1e-6)


@pytest.mark.parametrize("opening", ["hard", "graded"])
def test_below_the_threshold_it_is_exactly_zero(opening):
    context = torch.randn(200, D)
    gate = prober(0.8, opening)
    p, g = gate.probability(context), gate.decide(context)
    assert 0 < int((p > 0.8).sum()) < 200
    assert torch.equal(g[p <= 0.8], torch.zeros(int((p <= 0.8).sum())))
    wanted = torch.ones_like(p) if opening == "hard" else p
    assert torch.equal(g[p > 0.8], wanted[p > 0.8])


def test_the_decision_is_the_last_prompt_tokens():
    talks = [talk(3), talk(4)]
    gate = prober()
    x = pack(talks, [(0, 0, 7), (1, 0, 7)])
    state = gate.observe(x, gate.init(2, x.h))
    contexts = torch.stack([t.states[t.prompt_length - 1] for t in talks])
    assert torch.allclose(state, gate.decide(contexts))


def test_a_threshold_outside_is_refused():
    with pytest.raises(RecipeError, match=r"threshold is 1\.5"):
        prober(1.5)

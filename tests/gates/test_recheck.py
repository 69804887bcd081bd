from dataclasses import replace

import pytest
import torch

from packing import SITE, D, Talk, pack, talk
from steersman.core.errors import RecipeError
from steersman.core.steerer import Steerer
from steersman.core.types import Read, Site
from steersman.gates.prober import ProberGate
from steersman.gates.recheck import Recheck
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector


def sign_gate(read: Read) -> ProberGate:
    """Open where the first number of the state is above 0."""
    return ProberGate(
        read=read,
        mean=torch.zeros(D),
        scale=torch.ones(D),
        weight1=torch.eye(D)[:1],
        bias1=torch.zeros(1),
        weight2=torch.full((1,), 1e4),
        bias2=torch.full((1,), -1e-3),
    )


INNER = sign_gate(Read(Site(1)))
EXAMPLES = [Recheck(inner=INNER, every=2), Recheck(inner=INNER, every=1, max_checks=2)]


def written(signs: str, prompt_length: int) -> Talk:
    """A talk whose tokens are open (+) or closed (-)."""
    states = torch.zeros(len(signs), D)
    states[:, 0] = torch.tensor([1.0 if s == "+" else -1.0 for s in signs])
    return Talk(states, prompt_length)


def gates(gate, talks, site=SITE):
    x = pack(talks, [(r, 0, len(t)) for r, t in enumerate(talks)], site)
    state = gate.observe(replace(x, site=gate.inner.read.site), gate.init(len(talks), x.h))
    values = gate(x, state)
    return ["".join("+" if v else "-" for v in values[x.request == r]) for r in range(len(talks))]


def test_every_token_goes_by_the_last_check_before_it():
    """Prompts of 3 and 2; generated tokens 1, 3, 5, ... decide for themselves and the next one."""
    talks = [written("-+-" + "-+-++-", 3), written("-+" + "+--+", 2)]
    # 0: the prompt's last token is -, so tokens 0; then +(1) for 1, 2; +(3) for 3, 4; -(5)
    assert gates(Recheck(inner=INNER, every=2), talks)[0] == "---" + "-++++-"
    # 1: the prompt is +, for token 0; -(1) for 1, 2; +(3)
    assert gates(Recheck(inner=INNER, every=2), talks)[1] == "++" + "+--+"


def test_after_the_last_check_its_decision_stays():
    one = [written("-+" + "-+-++-", 2)]
    assert gates(Recheck(inner=INNER, every=1, max_checks=3), one) == ["++" + "-+++++"]


def test_a_site_before_the_read_goes_by_the_check_of_the_tokens_before():
    """The check of a token is not made yet when the token is written: it must not count."""
    gate = Recheck(inner=sign_gate(Read(Site(2))), every=2)
    one = [written("-+" + "+-+++-", 2)]
    assert gates(gate, one, Site(2)) == ["++" + "+--++-"]
    assert gates(gate, one, Site(1)) == ["++" + "++--++"]


def test_two_checks_of_one_request_in_one_pass_do_not_collide():
    """A server that recomputes shows prompt and answer at once."""
    talks = [talk(0, 3, 9), talk(1, 4, 8)]
    gate = EXAMPLES[0]
    at_once = pack(talks, [(0, 0, 12), (1, 0, 12)])
    whole = gate.observe(at_once, gate.init(2, at_once.h))
    state = gate.init(2, at_once.h)
    for step in range(12):
        x = pack(talks, [(1, step, step + 1), (0, step, step + 1)])
        state = gate.observe(x, state)
    assert torch.equal(whole, state) and 0 < int(whole.sum()) < whole.numel()


def test_reading_behind_the_write_needs_a_probe_and_before_it_none():
    def steerer(layer):
        return Steerer(
            sites=(Site(1),),
            gate=Recheck(inner=sign_gate(Read(Site(layer))), every=2),
            synthesizer=StaticVector(sites=(Site(1),), vectors=torch.ones(1, D)),
            operator=Add(),
        )

    assert steerer(2).needs_probe(0) and not steerer(1).needs_probe(0)


@pytest.mark.parametrize("given", [{"every": 0}, {"every": 2, "max_checks": 0}])
def test_counts_below_one_are_refused(given):
    with pytest.raises(RecipeError, match="both must be 1 or more"):
        Recheck(inner=INNER, **given)

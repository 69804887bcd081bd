"""Every part, composed, compiles as one graph and computes the same.

Runs in a session without the shape checks: those and torch.compile exclude each other
(pytorch/pytorch#122093).
"""

from functools import partial

import pytest
import torch

import examples
from packing import SITE, D, given_vectors, pack, talk, whole
from steersman.core.deal import deal, write, write_generated
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import SCOPES, Scope
from steersman.gates.always import AlwaysOpen
from steersman.operators.add import Add
from steersman.synthesizers.static import StaticVector

PARTS = examples.by_role("gate", "synthesizer", "operator")
TALKS = [talk(0, 4, 3), talk(1, 2, 5), talk(2, 6, 1)]
STRENGTH = torch.tensor([1.0, 0.0, -2.0])
VECTOR = torch.randn(1, D, generator=torch.Generator().manual_seed(7))


def compose(part) -> Policy:
    parts = {"gate": AlwaysOpen(), "operator": Add(),
             "synthesizer": StaticVector(sites=(SITE,), vectors=VECTOR)}  # fmt: skip
    one = Steerer(sites=(SITE,), scope=Scope.LAST_AND_GENERATED, **{**parts, part.role: part})
    two = Steerer(sites=(SITE,), scope=Scope.IMAGE, **parts)
    return Policy(steerers={"one": one, "two": two}, max_relative_norm=2.0)


def step(policy: Policy, x, state, strength):
    """What a server compiles: look, then write."""
    state = policy.observe(x, state)
    return policy(x, state, strength), state


def outcome(function, part):
    policy = compose(part)
    given = {"one": given_vectors(3)} if policy.steerers["one"].synthesizer.needs_vector else {}
    x = pack(TALKS, whole(TALKS))
    return function(policy, x, policy.init(3, x.h, given), STRENGTH)


def assert_same(eager, compiled, **tolerance):
    (h, state), (other, kept) = eager, compiled
    assert torch.allclose(h, other, **tolerance)
    first, second = (torch.utils._pytree.tree_leaves(s) for s in (state, kept))
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.allclose(a, b, **tolerance)
    out = [i for i, r in enumerate(pack(TALKS, whole(TALKS)).request.tolist()) if r == 1]
    assert torch.equal(other[out], torch.cat([t.states for t in TALKS])[out]), "strength 0"


@pytest.fixture(autouse=True)
def afresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("part", PARTS, ids=examples.label)
def test_it_is_one_graph_and_computes_the_same(part):
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_same(outcome(step, part), outcome(compiled, part), atol=1e-6)


@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_names_the_same_tokens(scope):
    """Compiled, a tensor does not equal an enum: image and text scopes were once empty."""
    x = pack(TALKS, whole(TALKS))
    mask = torch.compile(SCOPES[scope].mask, fullgraph=True, backend="eager")
    assert torch.equal(mask(x), SCOPES[scope].mask(x)) and bool(mask(x).any())


@pytest.mark.parametrize("part", PARTS, ids=examples.label)
def test_other_numbers_of_tokens_do_not_break_the_graph(part):
    """Prompts and single tokens alternate in a server; the shapes must not be burnt in."""
    policy = compose(part)
    graphs = []

    def counting(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(partial(step, policy), fullgraph=True, backend=counting, dynamic=True)
    given = {"one": given_vectors(3)} if policy.steerers["one"].synthesizer.needs_vector else {}
    passes = [whole(TALKS)[:2], [(0, 0, 4), (1, 0, 2), (2, 0, 5)], [(0, 1, 6), (2, 0, 3)]]
    for spans in passes:
        x = pack(TALKS, spans)
        state = policy.init(3, x.h, given)
        assert torch.allclose(compiled(x, state, STRENGTH)[0], step(policy, x, state, STRENGTH)[0])
    assert len(graphs) == 1


def beside(part) -> list[Policy]:
    """The part, the same partners under another strength and scope, and a policy with no cap."""
    other = compose(Add()).steerers
    return [compose(part), Policy(steerers={"one": other["two"], "two": other["one"]})]


def dealt(function, part):
    """Two policies, a slot of nobody and the padding's, in one batch."""
    policies, vectors = beside(part), given_vectors(4)
    x = pack(TALKS, whole(TALKS))
    made = deal(policies, [0, 1, -1, -1], [1.0, -2.0, 1.0, 0.0], device=x.h.device)
    needs = policies[0].steerers["one"].synthesizer.needs_vector
    state = made.init(x.h, [{"one": vectors} if needs else {}, {}])
    return function(made, tuple(p.observe(x, s) for p, s in zip(policies, state, strict=True)), x)


def serve(made, state, x):
    """What a server does at one site for all its requests."""
    return write(made.work(SITE, state), x)


@pytest.mark.parametrize("part", PARTS, ids=examples.label)
def test_many_policies_are_one_graph_and_computed_the_same(part):
    (h, doses), (other, told) = (
        dealt(f, part) for f in (serve, torch.compile(serve, fullgraph=True, backend="aot_eager"))
    )
    assert torch.allclose(h, other, atol=1e-6)
    first, second = (torch.utils._pytree.tree_leaves(d) for d in (doses, told))
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-6)
    x = pack(TALKS, whole(TALKS))
    assert torch.equal(other[x.request == 2], x.h[x.request == 2]), "of nobody"
    assert not torch.allclose(other[x.request == 1], x.h[x.request == 1]), "of the second policy"


def test_the_shorter_way_for_generated_tokens_is_one_graph_too():
    static = StaticVector(sites=(SITE,), vectors=VECTOR)
    steerers = [
        Steerer(sites=(SITE,), gate=AlwaysOpen(), synthesizer=static, operator=Add(), strength=k)
        for k in (1.0, -3.0)
    ]
    policies = [Policy(steerers={"one": s}) for s in steerers]
    made = deal(policies, [0, 1, -1, -1], [1.0, 0.5, 1.0, 0.0], device=VECTOR.device)
    x = pack(TALKS, [(r, t.prompt_length, len(t)) for r, t in enumerate(TALKS)])
    work = made.work(SITE, made.init(x.h, [{}, {}]))
    assert work.is_plain
    compiled = torch.compile(write_generated, fullgraph=True, backend="aot_eager")
    (h, relative), (other, told) = (f(work, x.h, x.request) for f in (write_generated, compiled))
    assert torch.allclose(h, other, atol=1e-6) and not torch.allclose(h, x.h)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(relative, told, strict=True))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_inductor_makes_the_same_of_the_largest_part():
    part = max(PARTS, key=lambda p: len(vars(p)))
    compiled = torch.compile(step, fullgraph=True, backend="inductor")
    assert_same(outcome(step, part), outcome(compiled, part), atol=1e-5)

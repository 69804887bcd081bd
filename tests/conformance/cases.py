"""What the table of backends is run on: every part among simple partners, and composed policies."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

import examples
from conformance.engine import IMAGE, Ask
from packing import READ, SITE, D, given_vectors
from steersman.core.part import Part
from steersman.core.roles import TokenGate
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Read, Scope, Site, Span
from steersman.gates.always import AlwaysOpen
from steersman.gates.prober import ProberGate
from steersman.gates.recheck import Recheck
from steersman.operators.ablate import Ablate
from steersman.operators.add import Add
from steersman.synthesizers.given import GivenVector
from steersman.synthesizers.linear_field import LinearField
from steersman.synthesizers.net import SteeringNet
from steersman.synthesizers.static import StaticVector

DRAW = torch.Generator().manual_seed(21)
VECTOR = torch.randn(D, generator=DRAW)
THINK = Span(13, 22)
"""Tokens that the model says often, so that answers do go in and out of the span."""
PROMPTS = (
    (9, 12, IMAGE, 15, 20, 11),
    (IMAGE, 14, 13),
    (10, 11, 12, IMAGE, IMAGE, 15, 16, 17, 18),
    (9, 25, IMAGE, 28, 11),
    (27, 12, IMAGE, 20),
)


@dataclass(frozen=True)
class Case:
    """A policy under a name, and the strengths at which its rows are run."""

    name: str
    policy: Policy

    def __str__(self) -> str:
        return self.name

    def vectors(self, row: int) -> Mapping[str, torch.Tensor]:
        own = given_vectors(len(PROMPTS))[row]
        takes = [n for n, s in self.policy.steerers.items() if s.synthesizer.needs_vector]
        return dict.fromkeys(takes, own)

    def ask(self, row: int, strength: float, policy: Policy | None = None) -> Ask:
        return Ask(PROMPTS[row], policy or self.policy, strength, self.vectors(row))


def steerer(site: Site = SITE, vector: torch.Tensor = VECTOR, **fields) -> Steerer:
    static = StaticVector(sites=(site,), vectors=vector[None])
    parts = {"gate": AlwaysOpen(), "operator": Add(), "synthesizer": static}
    return Steerer(sites=(site,), **{**parts, **fields})


def policy(*steerers: Steerer, cap: float | None = None) -> Policy:
    named = {f"s{i}": s for i, s in enumerate(steerers)}
    return Policy(steerers=named, max_relative_norm=cap)


def prober(read: Read, *, seed: int = 0, **fields) -> ProberGate:
    draw = torch.Generator().manual_seed(seed)
    return ProberGate(
        read=read, mean=torch.zeros(D), scale=torch.ones(D),
        weight1=torch.randn(4, D, generator=draw), bias1=torch.zeros(4),
        weight2=torch.randn(4, generator=draw), bias2=torch.zeros(1), **fields,
    )  # fmt: skip


def net(read: Read, *, seed: int = 0) -> SteeringNet:
    draw = torch.Generator().manual_seed(seed)
    return SteeringNet(
        read=read, mean=torch.zeros(D), spread=torch.ones(D),
        encoder=torch.randn(5, D, generator=draw), bias=torch.randn(5, generator=draw),
        decoder=torch.randn(D, 5, generator=draw),
    )  # fmt: skip


class Shut(TokenGate):
    """Never opens. Not registered."""

    def __call__(self, x, state):
        return torch.zeros_like(x.h[:, 0]).float()

    def per_request(self, state):
        return 0.0


def closed(policy: Policy) -> Policy:
    """The same steerers behind a gate that never opens."""
    own = {name: replace(s, gate=Shut()) for name, s in policy.steerers.items()}
    return replace(policy, steerers=own)


FIELD = LinearField(matrix=0.4 * torch.randn(D, D, generator=DRAW))
LOW, HIGH = Site(0), Site(2)
COMPOSED = (
    Case("all tokens", policy(steerer(scope=Scope.ALL))),
    Case("images", policy(steerer(scope=Scope.IMAGE), steerer(HIGH, scope=Scope.TEXT))),
    Case("outside spans", policy(steerer(scope=Scope(start=-2, outside=(THINK,))))),
    Case("only tokens 1 and 2", policy(steerer(scope=Scope(start=1, stop=3)))),
    Case("at every point", policy(*(
        steerer(Site(1, p), 0.3 * VECTOR, scope=Scope.ALL)
        for p in ("resid_pre", "attn_heads", "attn_out", "mlp_out", "resid_post")
    ), steerer(Site(2, "head_in")))),
    Case("read behind the write", policy(steerer(LOW, synthesizer=net(Read(HIGH))))),
    Case("gate behind the write", policy(
        steerer(LOW, gate=prober(READ, opening="graded", seed=3), scope=Scope.ALL))),
    Case("rechecked before the write", policy(
        steerer(HIGH, gate=Recheck(inner=prober(READ, seed=3), every=2)))),
    Case("rechecked behind the write", policy(
        steerer(LOW, gate=Recheck(inner=prober(READ, seed=3), every=1)))),
    Case("read above another write", policy(
        steerer(LOW), steerer(HIGH, synthesizer=net(READ), gate=prober(READ, seed=2)), cap=0.6)),
    Case("three at one site, capped", policy(
        steerer(synthesizer=FIELD, scope=Scope.TEXT), steerer(operator=Ablate(), scope=Scope.ALL),
        steerer(synthesizer=GivenVector(), strength=-0.7), cap=0.8)),
)  # fmt: skip


def alone(part: Part) -> Policy:
    """The part among simple partners, on every token if nothing must be read first."""
    scope = Scope.ALL if part.role == "synthesizer" and not part.reads else Scope(start=-1)
    return policy(steerer(**{part.role: part}, scope=scope))


PARTS = tuple(
    Case(examples.label(part), alone(part))
    for part in examples.by_role("gate", "synthesizer", "operator")
)
CASES = (*PARTS, *COMPOSED)
OTHER = Case("another policy", policy(steerer(vector=-2 * VECTOR.flip(0), strength=0.8)))

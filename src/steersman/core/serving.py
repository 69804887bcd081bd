"""What a server is asked of steering, and what it answers: the same on every engine.

A request has the field `steering: {policy, strength, scope, shadow}`, its answer
`steering: {policy, gate, strength, tokens_written, reason, ...}`. What is refused has a code, so
that programs need not read sentences.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch

from steersman.core.errors import SteersmanError, nearest
from steersman.core.requests import SteererTrace
from steersman.core.steerer import Policy
from steersman.core.tree import Plain
from steersman.core.types import SCOPES, Scope

FIELDS = ("policy", "strength", "scope", "shadow")
MAX_STRENGTH = 1e6
MIN_STRENGTH = torch.finfo(torch.float32).tiny
"""The smallest size that float32 holds in full; a strength below it is 0 or refused."""


class RefusedError(SteersmanError, ValueError):
    """A request that is not served, because it could not be served rightly.

    Attributes:
        code: why, for programs: `E_UNKNOWN_POLICY`, `E_SCOPE_NEEDS_PROBE`, ... (docs/serving.md).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Steering:
    """How a request asks to be steered.

    Attributes:
        policy: its id among those that are served.
        strength: multiplies the fitted one; 1 is as fitted, 0 unsteered.
        scope: a named scope that replaces the policy's own; None keeps it.
        shadow: compute and report gates and vectors, and write nothing.
    """

    policy: str
    strength: float = 1.0
    scope: str | None = None
    shadow: bool = False

    @property
    def acts(self) -> bool:
        """Whether anything is computed at all."""
        return self.strength != 0

    def scoped(self, policy: Policy) -> Policy:
        """The policy with the scope that was asked for; itself where none was."""
        if self.scope is None:
            return policy
        scope = Scope.named(self.scope)
        changed = {
            name: replace(s, scope=replace(scope, outside=s.scope.outside))
            for name, s in policy.steerers.items()
        }
        return replace(policy, steerers=changed)


def read_steering(given: object, known: Collection[str]) -> Steering | None:
    """The field `steering` of a request; None if there is none.

    Args:
        known: ids of the policies that are served.

    Raises:
        RefusedError: a field or the policy is unknown, or a value cannot be used.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise RefusedError(
            "E_STEERING", f"steering is {_shown(given)}; give an object: {{'policy': ...}}."
        )
    for name in given:
        if name not in FIELDS:
            raise RefusedError(
                "E_UNKNOWN_FIELD",
                f"steering has the field {_shown(name)}.{nearest(str(name)[:80], FIELDS)}",
            )
    return Steering(
        _policy(given.get("policy"), known),
        _strength(given.get("strength", 1.0)),
        _scope(given.get("scope")),
        _shadow(given.get("shadow", False)),
    )


def _shown(given: object) -> str:
    """Of what somebody sent, as much as a message may hold."""
    return repr(given[:80] if isinstance(given, str) else given)[:84]


def _policy(given: object, known: Collection[str]) -> str:
    if not isinstance(given, str):
        raise RefusedError(
            "E_STEERING",
            f"steering.policy is {_shown(given)}; give the id of a policy.{nearest('', known)}",
        )
    if given not in known:
        raise RefusedError(
            "E_UNKNOWN_POLICY", f"There is no policy {_shown(given)}.{nearest(given[:80], known)}"
        )
    return given


def _strength(given: object) -> float:
    number = math.nan
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        number = float(given) if abs(given) <= MAX_STRENGTH else math.inf
    if number != 0 and not MIN_STRENGTH <= abs(number) <= MAX_STRENGTH:
        raise RefusedError(
            "E_STRENGTH",
            f"steering.strength is {_shown(given)}; give a number between {-MAX_STRENGTH:.0e} "
            f"and {MAX_STRENGTH:.0e}: 1 is as fitted, 0 unsteered. Sizes below {MIN_STRENGTH:.1e} "
            "are too small; give 0.",
        )
    return number


def _scope(given: object) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or given not in SCOPES:
        raise RefusedError(
            "E_SCOPE", f"There is no scope {_shown(given)}.{nearest(str(given)[:80], SCOPES)}"
        )
    return given


def _shadow(given: object) -> bool:
    if not isinstance(given, bool):
        raise RefusedError(
            "E_STEERING", f"steering.shadow is {_shown(given)}; write true or false."
        )
    return given


def told(asked: Steering, trace: Mapping[str, SteererTrace]) -> dict[str, Plain]:
    """The field `steering` of an answer.

    `gate` and `strength` are those of the steerer whose gate was most open, `tokens_written` is the
    most that one steerer wrote; `steerers` has all of them.
    """
    head = {"policy": asked.policy, "gate": 0.0, "strength": 0.0, "tokens_written": 0}
    if not asked.acts:
        return {**head, "shadow": asked.shadow, "reason": "strength is 0", "steerers": {}}
    if not trace:
        return {**head, "shadow": asked.shadow, "reason": "no token was seen", "steerers": {}}
    widest = max(trace.values(), key=lambda t: t.gate)
    reasons = dict.fromkeys(t.reason for t in trace.values() if t.reason)
    written = max(t.tokens_written for t in trace.values())
    reason = "" if written else "; ".join(reasons)
    return {
        "policy": asked.policy,
        "gate": widest.gate,
        "strength": widest.strength,
        "tokens_written": written,
        "shadow": asked.shadow,
        "reason": "shadow: nothing is written" if asked.shadow else reason,
        "steerers": {
            name: {
                "gate": t.gate,
                "strength": t.strength,
                "tokens_in_scope": t.tokens_in_scope,
                "tokens_written": t.tokens_written,
                "relative_norm": t.relative_norm,
                "reason": t.reason,
            }
            for name, t in trace.items()
        },
    }

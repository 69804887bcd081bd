"""What a request to vLLM asks of steering, and how it is passed on: as `vllm_xargs.steersman`."""

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from steersman.backends.vllm.wire import KEY, asked_of, read_asked
from steersman.core.serving import RefusedError, Steering, read_steering
from steersman.server.events import packed

FIELD = "steering"


@dataclass(frozen=True)
class Order:
    """One request, ready to be passed on.

    Attributes:
        asked: how it is steered.
        trace: under which name the workers keep what they did.
        body: what vLLM is given.
        n: answers to one prompt.
        num_prompts: that the request has.
        told: whether the answer says how it was steered; not if the request asked not to be.
    """

    asked: Steering
    trace: str
    body: bytes
    n: int
    num_prompts: int
    told: bool = True


def read(body: bytes) -> dict[str, Any] | None:
    """The JSON object of a body; None for anything else, which vLLM itself refuses."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return given if isinstance(given, dict) else None


def may_steer(body: bytes) -> bool:
    """Whether a body may have a word of steering in it; False spares reading it."""
    return b"steer" in body or b"\\u" in body or b"\0" in body  # escapes, UTF-16


def named(given: Mapping[str, Any]) -> str | None:
    """The policy that a body names, whether or not there is one."""
    asked = given.get(FIELD)
    policy = asked.get("policy") if isinstance(asked, Mapping) else None
    return policy if isinstance(policy, str) else None


def order_of(
    given: dict[str, Any], known: Collection[str], default: str | None = None
) -> Order | None:
    """What a body asks for; None if nothing.

    Args:
        known: policies that are served.
        default: the policy of bodies without the field. `steering: null` is unsteered all the same.

    Raises:
        RefusedError: it asks for what is not there, cannot be, or is said twice.
    """
    xargs = given.get("vllm_xargs")
    xargs = dict(xargs) if isinstance(xargs, Mapping) else {}
    own, field = asked_of(xargs), given.get(FIELD)
    if field is not None and own is not None:
        raise RefusedError(
            "E_STEERING", f"steering and vllm_xargs.{KEY} are both given; give one of them."
        )
    asked = _asked(given, field, own, known=known, default=default)
    if asked is None:
        return None
    if given.get("use_beam_search"):
        raise RefusedError(
            "E_BEAM_SEARCH",
            "vLLM's beam search drops what steering needs to know. Leave use_beam_search out.",
        )
    if not isinstance(given.get("n"), (int, type(None))):  # vLLM would read "2" as 2
        raise RefusedError("E_STEERING", "n is not a whole number.")
    trace = uuid.uuid4().hex
    said = {
        **{"policy": asked.policy, "strength": asked.strength},
        **{"scope": asked.scope, "shadow": asked.shadow, "trace": trace},
    }
    passed = {name: value for name, value in given.items() if name != FIELD}
    passed["vllm_xargs"] = {**xargs, KEY: json.dumps(said)}
    n, prompt = given.get("n"), given.get("prompt")
    several = isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt)
    return Order(
        asked,
        trace,
        packed(passed),
        n if isinstance(n, int) and n > 0 else 1,
        len(prompt) if isinstance(prompt, list) and several else 1,
        told=field is not None or own is not None or FIELD not in given,
    )


def _asked(
    given: Mapping[str, Any],
    field: object,
    own: Mapping[str, Any] | None,
    *,
    known: Collection[str],
    default: str | None,
) -> Steering | None:
    if field is not None:
        return read_steering(field, known)
    if own is not None:
        return read_asked(own, tuple(known))[0]
    if default is None:
        return None
    return Steering(default, 0.0 if FIELD in given else 1.0)

"""What travels with a request: checked in the front end, read by the engine core and workers."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from steersman.core.errors import RecipeError, nearest
from steersman.core.serving import RefusedError, Steering, read_steering
from steersman.core.tree import Plain

KEY = "steersman"
"""Name of our entry in `additional_config`, `SamplingParams.extra_args` and `vllm_xargs`."""
TRACE = re.compile(r"[A-Za-z0-9_-]{0,64}")


@dataclass(frozen=True, slots=True)
class Order:
    """A request's steering, admitted.

    Attributes:
        digest: of the policy's content: a worker that holds another one must not serve it.
        trace: under which name the worker keeps what it did; "" if nobody asks.
        suffix: tokens of the generation prompt at the end of this prompt; -1 if it has none that
            is appended.
        key: what steered blocks of the prefix cache are keyed with.
        keyed_from: position of the first token that may be steered; -1 if none leaves a mark.
        apart_from: position of the first token that must be run for this request alone, because
            something is read there; -1 if none.
    """

    policy: str
    digest: str
    strength: float
    scope: str | None
    shadow: bool
    trace: str
    suffix: int
    key: str
    keyed_from: int
    apart_from: int

    @property
    def steering(self) -> Steering:
        return Steering(self.policy, self.strength, self.scope, self.shadow)

    def as_dict(self) -> dict[str, Plain]:
        return asdict(self)


def order_of(extra_args: Mapping[str, Any] | None) -> Order | None:
    """The order that admission wrote; None for a request that is not steered."""
    given = (extra_args or {}).get(KEY)
    return None if given is None else Order(**given)


def asked_of(extra_args: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a caller wrote under our key: an object, or JSON of one; None if nothing.

    Raises:
        RefusedError: it is neither.
    """
    given = (extra_args or {}).get(KEY)
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise RefusedError(
                "E_STEERING", f"vllm_xargs.{KEY} is not JSON ({error}); give one object."
            ) from error
    if not isinstance(given, dict):
        raise RefusedError("E_STEERING", f"{KEY} is {str(given)[:80]!r}; give an object.")
    return given


def read_asked(given: Mapping[str, Any], known: tuple[str, ...]) -> tuple[Steering, str]:
    """The steering that a caller asked for, and the name of its trace.

    Raises:
        RefusedError: a field is unknown or its value cannot be used.
    """
    trace = given.get("trace", "")
    if not isinstance(trace, str) or not TRACE.fullmatch(trace):
        raise RefusedError(
            "E_STEERING", "trace is a name of at most 64 letters, digits, dashes and underscores."
        )
    steering = read_steering({k: v for k, v in given.items() if k != "trace"}, known)
    assert steering is not None
    return steering, trace


@dataclass(frozen=True)
class Settings:
    """`--additional-config '{"steersman": {...}}'`.

    Attributes:
        policies: folder of artifacts.
        default_policy: for requests that name none; None leaves them unsteered.
        force: serve artifacts that were fitted on another model.
        sites: taps beside those of the policies in the folder, as in "resid_post[12]", for
            policies that are loaded later.
        check_weights: compare the model's sampled weights with the artifact's, which reads them
            once; None does so for models of up to 4 GB.
        record: keep the edits of the last steps, for tests.
        max_body: bytes of a request's body (the HTTP side).
        admin_key_env: name of the environment variable with the admin key (the HTTP side).
    """

    policies: str
    default_policy: str | None = None
    force: bool = False
    sites: tuple[str, ...] = ()
    check_weights: bool | None = None
    record: bool = False
    max_body: int = 20_000_000
    admin_key_env: str = "STEERSMAN_ADMIN_KEY"


def settings_of(additional_config: object) -> Settings | None:
    """Our part of vLLM's `additional_config`; None where nobody asked for steering.

    Raises:
        RecipeError: it is unknown or of the wrong kind.
    """
    if not isinstance(additional_config, Mapping) or KEY not in additional_config:
        return None
    given = additional_config[KEY]
    if not isinstance(given, Mapping) or not isinstance(given.get("policies"), str):
        raise RecipeError(
            f"additional_config.{KEY} is {given!r}; give an object with the folder of policies: "
            f'{{"{KEY}": {{"policies": "DIR"}}}}.'
        )
    known = [f.name for f in fields(Settings)]
    for name in given:
        if name not in known:
            raise RecipeError(f"additional_config.{KEY} has no {name!r}.{nearest(name, known)}")
    kinds = {"force": bool, "record": bool, "max_body": int, "admin_key_env": str}
    for name, kind in kinds.items():
        if name in given and not isinstance(given[name], kind):
            raise RecipeError(
                f"additional_config.{KEY}.{name} is {given[name]!r}; it must be a {kind.__name__}."
            )
    made: dict[str, Any] = {**given, "sites": tuple(given.get("sites", ()))}
    return Settings(**made)

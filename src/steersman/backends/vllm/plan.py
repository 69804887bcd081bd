"""What one policy needs of an engine that runs prompts in pieces: where it reads, what waits."""

from dataclasses import dataclass

from steersman.core.serving import RefusedError
from steersman.core.steerer import Policy
from steersman.core.types import Read, Site

NEVER = 1 << 40


@dataclass(frozen=True)
class Reader:
    """One read of one steerer, in one prompt.

    Attributes:
        position: of the token that is read.
        probed: whether it must see states that nobody has steered.
    """

    name: str
    site: Site
    position: int
    probed: bool


@dataclass(frozen=True)
class Course:
    """A policy on a prompt of known length.

    Attributes:
        first_write: position of the first token that may be steered; `num_prompt` or more for
            those that come behind the prompt.
        marks: position of the first token whose keys and values may differ for it; -1 if none.
        apart: position of the first token that must be run for this request; -1 if its last one,
            which always is, does.
    """

    readers: tuple[Reader, ...]
    first_write: int
    marks: int
    apart: int


def first_offset(policy: Policy, *, inside: bool = False) -> int | None:
    """The first offset that a steerer writes; None for the beginning of the prompt.

    Args:
        inside: leave out steerers that write behind the last block only, where no key or value is
            made from it.
    """
    steerers = [
        s
        for s in policy.steerers.values()
        if not inside or any(site.point != "head_in" for site in s.sites)
    ]
    starts = [s.scope.start for s in steerers]
    return None if None in starts else min((s for s in starts if s is not None), default=NEVER)


def check(policy: Policy) -> None:
    """Refuses what cannot be right where prompts come in pieces and share cached beginnings.

    Raises:
        RefusedError: says what and why.
    """
    for name, steerer in policy.steerers.items():
        if steerer.synthesizer.needs_vector:
            raise RefusedError(
                "E_NEEDS_VECTOR",
                f"The steerer {name!r} takes its vector from the request, and tensors do not "
                "travel with requests. Serve a policy that makes its own vectors.",
            )
        if any(read.every for read in steerer.reads):
            raise RefusedError(
                "E_RECHECK",
                f"The gate of {name!r} looks again while the answer is written; a request that is "
                "preempted would be run again under its last decision, not those of its time. Use "
                "the gate inside of it, or `steersman serve` without vLLM.",
            )
        if steerer.scope.outside:
            raise RefusedError(
                "E_SPANS",
                f"The scope of {name!r} leaves out spans between marker tokens, which vLLM may not "
                "have on the host when a pass begins. Leave `outside` out, or use "
                "`steersman serve` without vLLM.",
            )
        for read in steerer.reads:
            if read.site.point == "head_in":
                raise RefusedError(
                    "E_POINT",
                    f"{name!r} reads {read.site}, which vLLM computes for the last token only. "
                    "Read resid_post of the last layer.",
                )
        if any(s.point == "head_in" for s in steerer.sites) and _before_last(steerer.scope.start):
            raise RefusedError(
                "E_SCOPE",
                f"{name!r} writes head_in at tokens of the prompt, from which vLLM predicts "
                "nothing. Use the scope last_and_generated.",
            )
    _check_order(policy)


def _before_last(start: int | None) -> bool:
    return start is None or start < -1


def _check_order(policy: Policy) -> None:
    """A vector that is known at the end of the prompt cannot reach what ran in earlier pieces."""
    first = first_offset(policy)
    for name in policy.probed(0):
        for read in policy.steerers[name].reads:
            if first is None or first < min(read.offset, -1):
                raise RefusedError(
                    "E_SCOPE_NEEDS_PROBE",
                    f"{name!r} reads token {read.offset} of the prompt, and earlier tokens are "
                    "written, which may have run in another pass or come from the prefix cache. "
                    "Use the scope last_and_generated or generated.",
                )


def course(policy: Policy, *, num_prompt: int, suffix: int) -> Course:
    """Where a policy reads and writes in a prompt.

    Args:
        suffix: tokens of the generation prompt at its end, -1 if it has none that is appended.

    Raises:
        RefusedError: a read lies outside of the prompt.
    """
    probed = policy.probed(max(suffix, 0))
    readers = [
        Reader(name, read.site, _position(name, read, num_prompt, suffix), name in probed)
        for name, steerer in policy.steerers.items()
        for read in steerer.reads
    ]
    first, inner = first_offset(policy), first_offset(policy, inside=True)
    earliest = min((r.position for r in readers), default=num_prompt - 1)
    apart = earliest if earliest < num_prompt - 1 else -1
    return Course(
        tuple(readers),
        0 if first is None else max(0, num_prompt + first),
        -1 if inner == NEVER else 0 if inner is None else max(0, num_prompt + inner),
        apart,
    )


def _position(name: str, read: Read, num_prompt: int, suffix: int) -> int:
    offset = read.effective_offset(None if suffix < 0 else suffix)
    if offset is None:
        raise RefusedError(
            "E_GENERATION_PROMPT",
            f"{name!r} reads the prompt before its generation prompt, which this chat template "
            "does not append as plain tokens. Use `steersman serve` without vLLM.",
        )
    if not 0 <= num_prompt + offset < num_prompt:
        raise RefusedError(
            "E_SHORT_PROMPT",
            f"{name!r} reads token {offset} counted from the end, and the prompt has {num_prompt}.",
        )
    return num_prompt + offset

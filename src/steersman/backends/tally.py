"""Counts what steering did, on the device, and turns the counts into traces at the end."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import NotSteeredError
from steersman.core.ops import per_request_sum
from steersman.core.requests import SteererTrace
from steersman.core.steerer import Dose, Steerer
from steersman.core.types import Tokens

SCOPE, GATE, STRENGTH, WRITTEN, RELATIVE = range(5)
ENDED = SteererTrace(0.0, 0.0, 0, 0, 0.0, "the answer ended before the scope began")


class Tally:
    """What one steerer did in a run, pass by pass; read only when the run is over."""

    def __init__(self) -> None:
        self._passes: list[Float[Tensor, "5 r"]] = []
        self._reads: Float[Tensor, " r"] | None = None

    def new_pass(self, num_slots: int, device: torch.device) -> None:
        """Begins a forward pass."""
        self._passes.append(torch.zeros(5, num_slots, device=device))

    def wrote(self, x: Tokens, dose: Dose) -> None:
        """Adds what happened at one site of the current pass."""
        written = (dose.relative > 0).float()
        columns = (dose.scope.float(), dose.gate, dose.strength, written, dose.relative)
        now = self._passes[-1]
        sums = [per_request_sum(c, x.request, now.shape[1]) for c in columns]
        self._passes[-1] = now + torch.stack(sums)

    def read(self, x: Tokens, steerer: Steerer, num_slots: int) -> None:
        """Counts the tokens that the steerer's parts read at one site."""
        for read in steerer.reads:
            if read.site == x.site:
                seen = per_request_sum(read.here(x).float(), x.request, num_slots)
                self._reads = seen if self._reads is None else self._reads + seen

    def traces(
        self,
        name: str,
        steerer: Steerer,
        *,
        strength: Sequence[float],
        num_passes: Sequence[int],
        slots: Sequence[int],
        may_end: bool,
    ) -> list[SteererTrace | None]:
        """One trace per row; None for rows with strength 0.

        Args:
            num_passes: forward passes that counted for each row (the rest ran behind its end).
            slots: where each row was counted.
            may_end: an answer that ended with its first token leaves a scope of generated tokens
                empty, and that is no error.

        Raises:
            NotSteeredError: a row with non-zero strength has no token in scope, was not read, or
                a static vector was added that changed nothing.
        """
        passes = torch.stack(self._passes).cpu() if self._passes else torch.zeros(0, 5, 1)
        reads = None if self._reads is None else self._reads.cpu()
        made: list[SteererTrace | None] = []
        for slot, s, n in zip(slots, strength, num_passes, strict=True):
            if s == 0:
                made.append(None)
                continue
            sums = passes[:n, :, slot].sum(0).tolist() if len(passes) else [0.0] * 5
            if may_end and n == 1 and sums[SCOPE] == 0 and _begins_later(steerer):
                made.append(ENDED)
                continue
            was_read = reads is not None and float(reads[slot]) >= len(steerer.reads)
            made.append(_trace(name, steerer, sums, was_read or not steerer.reads))
        return made


def _trace(name: str, steerer: Steerer, sums: list[float], was_read: bool) -> SteererTrace:
    scope, written = sums[SCOPE], sums[WRITTEN]
    if not all(math.isfinite(value) for value in sums):
        raise NotSteeredError(
            f"The steerer {name!r} made states that are no numbers (NaN or infinity). Lower the "
            "strength, or fit it again."
        )
    if scope == 0:
        raise NotSteeredError(
            f"The steerer {name!r} wrote no token: its scope {steerer.scope} names none of the "
            "tokens that went through the model. Choose another scope, or generate more tokens."
        )
    if not was_read:
        raise NotSteeredError(
            f"The steerer {name!r} never saw the tokens it reads ({steerer.reads}), so its gate "
            "and vector were never computed. Give the whole prompt in one pass."
        )
    reason = ""
    if written == 0:
        reason = "the gate was closed" if sums[GATE] == 0 else "the vector is zero"
        per_input = bool(steerer.synthesizer.reads) or steerer.synthesizer.needs_vector
        rests = steerer.operator.may_rest
        if sums[GATE] > 0 and rests:
            reason = "the vector is zero, or the states needed no change"
        if sums[GATE] > 0 and not rests and not per_input:
            raise NotSteeredError(
                f"The steerer {name!r} changed none of {int(scope)} tokens in scope: its vector is "
                "zero, or too small for the model's number type. Fit it again, or raise strength."
            )
    return SteererTrace(
        gate=sums[GATE] / scope,
        strength=sums[STRENGTH] / scope,
        tokens_in_scope=int(scope),
        tokens_written=int(written),
        relative_norm=sums[RELATIVE] / written if written else 0.0,
        reason=reason,
    )


def _begins_later(steerer: Steerer) -> bool:
    """Whether the scope holds generated tokens only: the first comes from the prompt's own pass."""
    return steerer.scope.start is not None and steerer.scope.start >= 0

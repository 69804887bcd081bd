"""Any method behind any gate: WHEN from one recipe, WHAT from another."""

from dataclasses import replace
from typing import Literal

from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import GateMethod, Model
from steersman.core.steerer import Method, Steerer
from steersman.data.rows import LEAVE_ALONE, Dataset


@part("gated")
class Gated(Method[Dataset]):
    """The steerer of `method` with its gate replaced by the one that `gate` fits.

    The gate is fitted on all rows; without one, the method's own stays. With
    `train_on = "steered"` the method is fitted on the rows with a behaviour alone, since the gate
    is there to leave the others alone.
    """

    method: Method[Dataset]
    gate: GateMethod[Dataset] | None = None
    train_on: Literal["all", "steered"] = "all"

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        steered = tuple(row for row in data.rows if row.behaviour != LEAVE_ALONE)
        rows = steered if self.train_on == "steered" else data.rows
        steerer = self.method.fit(model, replace(data, rows=rows), log)
        if self.gate is None:
            return steerer
        return replace(steerer, gate=self.gate.fit(model, data, log))

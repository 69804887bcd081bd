"""FineSteer: a subspace decides when, a mixture of experts what.  Weng et al. 2026,
arXiv:2604.15488, known to us from its abstract, notes and released code.

    h_t <- h_t + strength * g(h_X) * v(h_X)   for every token t, prompt and generated   (Eq. 15)

    h_X  the state of the last prompt token at the input of block l; h_t at the output of block l
    g    how much of h_X lies in the subspace of requests to steer          `scs_fit`, Eqs. 6 to 9
    v    experts weighed by h_X, and a residual                             `mose`, Eqs. 10 to 14
"""

from typing import Literal

from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import GateMethod, Model
from steersman.core.steerer import Method, Steerer
from steersman.data.rows import Dataset
from steersman.methods.gated import Gated


@part("finesteer")
class FineSteer(Method[Dataset]):
    """h_t <- h_t + strength * g(h_X) * v(h_X), g from `gate` (scs_fit), v from `method` (mose).

    Paper: FineSteer, arXiv:2604.15488. Both parts read one token per request; where they read no
    deeper than `method` writes, one pass over the prompt is enough, as the paper's two give.

    The ablations are compositions: without SCS it is the method `mose` alone; without MoSE the
    `method` is `mean`; without the residual `mixture.residual_dim` is 0; a hard gate has
    `opening = "hard"`.

    Departs from the paper: the gate is exactly 0 below a floor, so that a request left alone is
    bit-identical; the parts list their own departures. The rows to be left alone must be neither
    the calibration nor the test rows, as some of the authors' were.
    """

    method: Method[Dataset]
    gate: GateMethod[Dataset]
    train_on: Literal["all", "steered"] = "all"

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        whole = Gated(method=self.method, gate=self.gate, train_on=self.train_on)
        return whole.fit(model, data, log)

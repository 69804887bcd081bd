"""LM-Steer: word embeddings steer the model.  Han et al. 2024 (ACL), arXiv:2305.12798

    e_v <- (I + strength * W) e_v     as    h_t <- h_t + strength * W h_t   before the output head

Departs from the paper: W = I + D with decay towards I instead of W drawn around 0 (as AutoSteer
begins); it learns given answers, with +strength alone, rather than two corpora with +strength and
-strength; benign rows are retained by a KL term (`head.retention`; the paper has none).
"""

from collections.abc import Mapping

from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope, Site
from steersman.data.rows import Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.head_training import HeadTraining, check_head, train_head
from steersman.operators.add import Add


@part("lm_steer")
class LMSteer(Method[Dataset]):
    """h_t <- h_t + strength * W h_t at `head_in`, for every request: AutoSteer without its gate.

    W is trained to make the model say `targets` (what to say, by behaviour, with the placeholders
    of a contrast) while the model stays as it is. Rows of other behaviours are benign.
    """

    site: Site
    targets: Mapping[str, str]
    head: HeadTraining = HeadTraining()
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 0.1

    def __post_init__(self) -> None:
        check_head(self.site, self.targets, "LM-Steer")

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site], "LM-Steer")
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=train_head(
                self.head,
                model,
                data.rows,
                targets=self.targets,
                strength=self.strength,
                log=log,
            ),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )

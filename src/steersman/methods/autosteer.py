"""AutoSteer: a prober decides, a refusal head writes.  Wu et al. 2025 (EMNLP), arXiv:2507.13255

    L = argmax_l score(l)                                   score: "sas"     (Eqs. 7 and 8)
    g = 1[p > threshold],  p = prober(h_L of the last prompt token)          (Eqs. 10 and 11)
    h_t <- h_t + strength * g * W h_t   before the output head               (Eqs. 12 and 13)

Departs from the paper, as options with the paper's value in the presets: benign answers are
retained by a KL term (`head.retention`; the paper has no benign data, and is reported to refuse
much that is safe), the prober is trained on logits and calibrated on held-out rows (`prober`), the
decision may be graded or taken again while the answer is written, another score may choose the
layer, and any behaviour may have a target of its own.

Departs without an option: the answer alone is learned, where the released code learns the question
too; W decays towards its beginning, the identity, where the released optimiser pulls it to 0.
E + strength * E W is never computed: a linear edit of the state gives the same logits. A decision
belongs to a request; the released code keeps the last one on the module.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steersman.core.errors import RecipeError
from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import ContextGate, Gate, LayerScore, LayerSelector, Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Scope, Site
from steersman.data.rows import Dataset
from steersman.gates.recheck import Recheck
from steersman.methods.head_training import HeadTraining, check_head
from steersman.methods.layer_choice import choose_layer
from steersman.methods.lm_steer import LMSteer
from steersman.methods.prober import ProberFit
from steersman.selectors.layers import FractionalDepth


@part("autosteer")
class AutoSteer(Method[Dataset]):
    """h_t <- h_t + strength * g * W h_t at `head_in`, g decided from the prompt at one layer.

    `targets` says what is to be said, by behaviour, with the placeholders of a contrast. The
    prober opens for these behaviours unless it names its own. With `score`, its layer is the best
    of `layers`, told by rows that share `labels.pair`; without, the layer of `prober.read`. Rows
    that the prober holds out have no say, so that its figures and its threshold are of new rows.
    The score's error counts pairs with the same label `cluster_by` as one. With `recheck_every`,
    the prober decides again after every so many tokens of the answer.
    """

    site: Site
    prober: ProberFit
    targets: Mapping[str, str]
    head: HeadTraining = HeadTraining()
    score: LayerScore[Any] | None = None  # each with a state of its own kind
    layers: LayerSelector = FractionalDepth(start=0.15, stop=1.0, point="resid_pre")
    cluster_by: str = "object"
    recheck_every: int = 0
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 0.1

    def __post_init__(self) -> None:
        check_head(self.site, self.targets, "AutoSteer")
        if self.recheck_every < 0:
            raise RecipeError(
                f"recheck_every is {self.recheck_every}; write 0 to decide once, or a count of "
                "tokens."
            )

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site], "AutoSteer")
        gate = self._prober(model, data, log).fit(model, data, log)
        head = LMSteer(
            site=self.site,
            targets=self.targets,
            head=self.head,
            scope=self.scope,
            strength=self.strength,
        )
        return replace(head.fit(model, data, log), gate=self._rechecked(gate))

    def _prober(self, model: Model, data: Dataset, log: FitLog) -> ProberFit:
        """The prober for the targets' behaviours, at its layer."""
        behaviours = self.prober.behaviours or tuple(self.targets)
        prober = replace(self.prober, behaviours=behaviours)
        if self.score is None:
            return prober
        held = prober.split(data.rows).held.tolist()
        site = choose_layer(
            model,
            [row for row, out in zip(data.rows, held, strict=True) if not out],
            read=prober.read,
            sites=self.layers(model.spec),
            score=self.score,
            cluster_by=self.cluster_by,
            behaviours=behaviours,
            log=log,
        )
        return replace(prober, read=replace(prober.read, site=site))

    def _rechecked(self, gate: ContextGate) -> Gate[Any]:
        return Recheck(inner=gate, every=self.recheck_every) if self.recheck_every else gate

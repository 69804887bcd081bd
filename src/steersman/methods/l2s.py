"""L2S: a small net predicts the vector that fits this input.  Parekh et al. 2025, arXiv:2508.12815

    z_X = h(X, positive) - h(X, negative) at `site`                                  (Eq. 5)
    g   = argmin sum_X |g(h_X) - z_X|^2,   h_X the state of the query at `context`     (Eq. 8)
    h_t <- h_t + strength * g(h_X)   for every token in scope                          (Eq. 9)

Rows of the behaviour "none" have the target 0 (the VLGuard recipe, App. A.1).

Departs from the paper, as options with the paper's value in the presets: contexts are
standardised and targets scaled to unit norm before training; the scope is the last prompt token
and the generated ones, since Eq. 9 taken literally cannot change the first answer token, while the
released scripts write every token of the prompt.

Departs from the released code without an option: rates change per epoch, not per batch; validation
rows are drawn at random and weigh the cosine as training does; classes are balanced over all rows,
not within a batch; the dictionary search stops after 50 rounds; a continuation that the model adds
to a forced answer is tokenised again with it; norm factors come from the fit rows alone.
"""

from steersman.core.fitlog import NO_LOG, FitLog
from steersman.core.part import part
from steersman.core.roles import Model
from steersman.core.steerer import Method, Steerer
from steersman.core.types import Read, Scope, Site
from steersman.data.rows import LEAVE_ALONE, Dataset
from steersman.gates.always import AlwaysOpen
from steersman.methods.contexts import read_contexts
from steersman.methods.contrast import (
    ContrastRule,
    contrast_vectors,
    norm_factors,
    scaled,
    steered_rows,
)
from steersman.methods.net_training import NetTraining, train_net
from steersman.operators.add import Add


@part("l2s")
class L2S(Method[Dataset]):
    """h_t <- h_t + strength * W2 tanh(W1 h_X + b1), with h_X read once per request at `context`.

    Paper: Learning to Steer, arXiv:2508.12815, Eqs. 5 to 9. `context` may lie in another layer
    than `site`; where it lies deeper, or the scope reaches tokens before it, generation begins
    with a probe pass.
    """

    site: Site
    context: Read
    contrasts: ContrastRule
    net: NetTraining = NetTraining()
    scope: Scope = Scope.LAST_AND_GENERATED
    strength: float = 1.0

    def fit(self, model: Model, data: Dataset, log: FitLog = NO_LOG) -> Steerer:
        model.spec.check([self.site, self.context.site], "L2S")
        steered_rows(data.rows)
        z = contrast_vectors(model, self.contrasts, data.rows, [self.site])[self.site]
        z = scaled(data.rows, z, norm_factors(self.contrasts, data.rows, z))
        context = read_contexts(model, data.rows, self.context)
        groups = [
            row.behaviour if row.behaviour == LEAVE_ALONE else row.answer or row.behaviour
            for row in data.rows
        ]
        return Steerer(
            sites=(self.site,),
            gate=AlwaysOpen(),
            synthesizer=train_net(self.net, self.context, context, z, groups, log=log),
            operator=Add(),
            scope=self.scope,
            strength=self.strength,
        )

import torch

import tiny
from steersman.gates.prober import ProberGate
from steersman.methods.gated import Gated
from steersman.methods.mean import MeanVector
from steersman.methods.prober import ProberFit
from toy import READ, RULE, SITE, rows

EXAMPLES = [
    Gated(
        method=MeanVector(site=SITE, contrasts=RULE),
        gate=ProberFit(read=READ, hidden=4, epochs=3),
        train_on="steered",
    )
]


def test_it_is_the_methods_vector_behind_the_fitted_gate():
    model, data = tiny.llama(), rows()
    steerer = EXAMPLES[0].fit(model, data)
    alone = EXAMPLES[0].method.fit(model, data)
    assert isinstance(steerer.gate, ProberGate)
    assert torch.allclose(steerer.synthesizer.vectors, alone.synthesizer.vectors, atol=1e-6)

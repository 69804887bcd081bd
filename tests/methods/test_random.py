import torch

import tiny
from steersman.methods.contrast import contrast_vectors, norm_factors, scaled
from steersman.methods.random import RandomVector
from toy import RULE, SITE, rows

EXAMPLES = [RandomVector(site=SITE, contrasts=RULE, seed=3)]


def test_directions_differ_and_norms_are_the_mean_norm_of_the_contrasts():
    model, data = tiny.llama(), rows(12)
    made = EXAMPLES[0].vectors(model, data, data.rows)
    z = contrast_vectors(model, RULE, data.rows, [SITE])[SITE]
    z = scaled(data.rows, z, norm_factors(RULE, data.rows, z))
    wanted = torch.stack([v for v, r in zip(z, data.rows, strict=True) if r.behaviour != "none"])
    assert torch.allclose(made.norm(dim=1), wanted.norm(dim=1).mean().expand(12), rtol=1e-5)
    cosines = torch.cosine_similarity(made[:, None], made[None], dim=-1)
    assert float((cosines - torch.eye(12)).abs().max()) < 0.9

import torch

import tiny
from steersman.core.requests import Request
from steersman.core.steerer import Policy
from steersman.data.prompts import to_prompt
from steersman.methods.contrast import contrast_vectors
from steersman.methods.p2s import P2S
from toy import RULE, SITE, rows

EXAMPLES = [P2S(site=SITE, contrasts=RULE)]


def test_every_request_is_steered_by_its_own_vector():
    model, data = tiny.llama(), rows(6)
    steerer = EXAMPLES[0].fit(model, data)
    z = EXAMPLES[0].vectors(model, data, data.rows)
    policy = Policy(steerers={"s": steerer})
    made = model.generate(
        [
            Request(to_prompt(r), policy, vectors={"s": v}, max_new_tokens=3)
            for r, v in zip(data.rows, z, strict=True)
        ]
    )
    for row, completion in zip(data.rows, made, strict=True):
        trace = completion.trace["s"]
        alone = row.behaviour == "none"
        assert (trace.tokens_written == 0) == alone
        assert trace.reason == ("the vector is zero" if alone else "")


def test_norms_are_matched_by_the_fit_rows_only():
    model, data, others = tiny.llama(), rows(6), rows(24).rows[12:]
    z = EXAMPLES[0].vectors(model, data, others)
    raw = contrast_vectors(model, RULE, others, [SITE])[SITE]
    fit = contrast_vectors(model, RULE, data.rows, [SITE])[SITE]
    by = {
        b: [i for i, r in enumerate(data.rows) if r.behaviour == b] for b in ("harmful", "expert")
    }
    factor = fit[by["harmful"]].norm(dim=1).mean() / fit[by["expert"]].norm(dim=1).mean()
    for row, made, plain in zip(others, z, raw, strict=True):
        wanted = plain * {"harmful": 1.0, "expert": float(factor), "none": 0.0}[row.behaviour]
        assert torch.allclose(made, wanted, atol=1e-5)

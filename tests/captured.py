"""States of the toy rows in numpy, float64: where parity tests begin."""

import numpy as np

from steersman.core.types import Position, Prompt
from toy import RULE


def prompt_states(model, rows, site, skip_last=0):
    """The last prompt token of every row (or the one `skip_last` before it)."""
    prompts = [Prompt(row.prompt) for row in rows]
    found = model.capture(prompts, [site], Position("prompt", "last", skip_last=skip_last))
    return found[site].numpy().astype(np.float64)


def completion_states(model, rows, site):
    """The last token of the positive and of the negative completion, by the toy rule."""
    sides = []
    for side in ("positive", "negative"):
        prompts = []
        for row in rows:
            contrast = RULE.behaviours[row.behaviour]
            word = getattr(contrast, side)
            prompts.append(Prompt(row.prompt + contrast.suffix, completion=word))
        found = model.capture(prompts, [site], Position("completion", "last"))
        sides.append(found[site].numpy().astype(np.float64))
    return sides


def mean_contrast(model, rows, site):
    """The mean difference, with the norms of each behaviour matched to those of the first."""
    positive, negative = completion_states(model, rows, site)
    z = positive - negative
    norms = np.linalg.norm(z, axis=1)
    names = [row.behaviour for row in rows]
    present = [name for name in RULE.behaviours if name in names]
    means = {b: np.mean([n for n, name in zip(norms, names, strict=True) if name == b])
             for b in present}  # fmt: skip
    factors = np.array([means[present[0]] / means[name] for name in names])
    return (z * factors[:, None]).mean(0)

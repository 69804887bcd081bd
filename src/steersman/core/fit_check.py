"""Whether a policy's tensors fit a model's width, tried before the user's prompt is."""

import torch

from steersman.core.errors import RecipeError
from steersman.core.steerer import Policy, Steerer
from steersman.core.types import Site, Tokens


def check_width(policy: Policy, width: int) -> None:
    """Runs every steerer on one token of zeros.

    Sites at `attn_heads` are left out: their width is known only when the model runs.

    Raises:
        RecipeError: a tensor has another width.
    """
    for name, steerer in policy.steerers.items():
        try:
            _try(steerer, width)
        except (RuntimeError, IndexError) as error:
            raise RecipeError(
                f"The steerer {name!r} does not fit a model whose states are {width} wide: it was "
                f"made for another model ({str(error).splitlines()[0]}). Fit it on this model."
            ) from error


def _try(steerer: Steerer, width: int) -> None:
    reads = {read.site for read in steerer.reads}
    if any(site.point == "attn_heads" for site in (*steerer.sites, *reads)):
        return
    like = torch.zeros(1, width)
    vectors = like if steerer.synthesizer.needs_vector else None
    state = steerer.init(1, like, vectors)
    for site in sorted(reads, key=lambda s: s.depth):
        state = steerer.observe(_token(steerer, site, like), state)
    for site in steerer.sites:
        steerer.write(_token(steerer, site, like), state, torch.ones(1))


def _token(steerer: Steerer, site: Site, h: torch.Tensor) -> Tokens:
    zero = torch.zeros(1, dtype=torch.long)
    spans = {span: zero.bool() for span in steerer.scope.outside}
    return Tokens(
        site=site, h=h, request=zero, position=zero, offset=zero - 1, modality=zero, spans=spans
    )

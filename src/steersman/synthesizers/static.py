"""StaticVector: the same vector for everyone, one per site."""

from jaxtyping import Float
from torch import Tensor

from steersman.core.errors import RecipeError
from steersman.core.part import part
from steersman.core.roles import TokenSynthesizer
from steersman.core.types import Site, Tokens


@part("static")
class StaticVector(TokenSynthesizer):
    """v_t = vectors[i] at the i-th of `sites`."""

    sites: tuple[Site, ...]
    vectors: Float[Tensor, "l d"]

    def __post_init__(self) -> None:
        if len(self.sites) != len(self.vectors):
            raise RecipeError(
                f"A static vector has {len(self.sites)} sites and {len(self.vectors)} vectors. "
                "Give one vector for each site."
            )

    def __call__(self, x: Tokens, state: None) -> Float[Tensor, "1 d"]:
        return self.per_request(x.site, state)

    def per_request(self, site: Site, state: None) -> Float[Tensor, "1 d"]:
        # Not `index`: torch.compile cannot rebuild a Site to call it.
        here = [i for i, own in enumerate(self.sites) if own == site]
        return self.vectors[here[0]][None]

import pytest
import torch

from packing import SITE, D, pack, talk
from steersman.core.errors import RecipeError
from steersman.core.types import Site
from steersman.synthesizers.static import StaticVector

EXAMPLES = [
    StaticVector(sites=(SITE,), vectors=torch.arange(D)[None].float()),
    StaticVector(
        sites=(Site(0), SITE), vectors=torch.randn(2, D, generator=torch.Generator().manual_seed(1))
    ),
]


def test_each_site_has_its_own_vector():
    part = EXAMPLES[1]
    for i, site in enumerate(part.sites):
        assert torch.equal(part(pack([talk(0)], [(0, 0, 2)], site), None), part.vectors[i : i + 1])


def test_sites_and_vectors_must_agree():
    with pytest.raises(RecipeError, match="1 sites and 2 vectors"):
        StaticVector(sites=(SITE,), vectors=torch.zeros(2, D))

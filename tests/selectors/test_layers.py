import pytest

from steersman.core.errors import RecipeError
from steersman.core.types import ModelSpec, Site
from steersman.selectors.layers import FractionalDepth, Layers

SPEC = ModelSpec("m", "M", 8, 11)
EXAMPLES = [Layers(layers=(0, 2)), FractionalDepth(start=0.0, stop=0.5)]


def test_fractions_of_the_depth():
    assert [s.layer for s in FractionalDepth(start=0.3, stop=0.5)(SPEC)] == [3, 4, 5]
    assert FractionalDepth(start=1.0)(SPEC) == (Site(10),)


def test_layers_the_model_lacks_are_refused():
    with pytest.raises(RecipeError, match=r"resid_post\[11\].*11 layers.*below 11"):
        Layers(layers=(11,))(SPEC)


def test_a_backward_stretch_is_refused():
    with pytest.raises(RecipeError, match="no stretch"):
        FractionalDepth(start=0.8, stop=0.2)

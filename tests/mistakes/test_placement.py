"""A way of sharing a model that there is not."""

import pytest

from steersman.backends.hf import load
from steersman.core.errors import RecipeError


def test_a_plan_of_the_users_own_is_refused():
    with pytest.raises(RecipeError, match="tp is 'manual'. Write tp=\"auto\""):
        load("bundled", tp="manual")

"""The recipes of the page can be read, and what it says of the search is so."""

import re
from pathlib import Path

import pytest

from steersman.core.recipe import parse_recipe

PAGE = (Path(__file__).parents[2] / "docs/compare-howto.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.S)


@pytest.mark.parametrize(
    "text", [b for b in BLOCKS if not b.startswith(("[search]", "[hold_out]"))]
)
def test_every_recipe_of_the_page_is_read(text):
    assert parse_recipe(text, "page").steerers


def test_the_search_of_the_page_is_read_with_a_recipe():
    (search,) = (b for b in BLOCKS if b.startswith("[search]"))
    recipe = parse_recipe(
        'method = "mean"\nsite = { layer = 1 }\ncontrasts = { behaviours = { a = '
        f'{{ positive = "x", negative = "y" }} }} }}\n{search}',
        "page",
    )
    assert sum(map(len, recipe.search.values())) == 7


def test_what_the_page_holds_out_is_read_with_a_recipe():
    (held,) = (b for b in BLOCKS if b.startswith("[hold_out]"))
    whole = next(b for b in BLOCKS if b.startswith("name ="))
    assert parse_recipe(whole + held, "page").hold_out == {"safety": "object"}

"""Recipes that a verb was given: files, folders of them, or names of the bundled world's."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from steersman.core.errors import RecipeError
from steersman.core.recipe import Recipe, read_recipe

FIRST = ("composed", "safety", "hallucination")
"""Recipes of the bundled world that lead: the page's summary and the random control are of them."""


def read_recipes(paths: Sequence[Path], *, bundled: bool = False) -> list[Recipe]:
    """The recipes in files, in the TOML files of folders by name, or of the bundled world by name.

    Args:
        bundled: every recipe of the bundled world where no path is given.

    Raises:
        RecipeError: one cannot be read, or a folder has none.
    """
    home = Path(str(files("steersman.world"))) / "recipes"
    known = sorted(home.glob("*.toml"), key=lambda file: (_place(file.stem), file.stem))
    if not paths and bundled:
        return [read_recipe(file) for file in known]
    found: list[Recipe] = []
    for path in paths:
        named = home / f"{path}.toml"
        inside = [named] if not path.exists() and named in known else [path]
        inside = sorted(path.glob("*.toml")) if path.is_dir() else inside
        if not inside:
            raise RecipeError(f"{path} holds no recipe. Give a TOML file, or a folder of them.")
        found += [read_recipe(file) for file in inside]
    return found


def _place(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)

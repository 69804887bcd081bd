"""Recipes that a verb was given: files, folders, presets, or the bundled world's by name."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from steersman.core.errors import RecipeError, nearest
from steersman.core.recipe import Recipe, read_recipe
from steersman.methods.importers import PRESETS, preset

FIRST = ("composed", "safety", "hallucination")
"""Recipes of the bundled world that lead: the page's summary and the random control are of them."""


def open_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or of a name: a preset, or one of the bundled world's.

    Raises:
        RecipeError: there is none, with the nearest name; or it cannot be used.
    """
    named = bundled_recipes()
    if Path(name).is_file():
        return read_recipe(name, overrides)
    if name in PRESETS:
        return preset(name, overrides)
    if name in named:
        return read_recipe(named[name], overrides)
    raise RecipeError(
        f"There is no recipe at {name}.{nearest(name, [*named, *PRESETS])} Give a TOML file, or a "
        "name that `steersman show` lists under recipes."
    )


def read_recipes(paths: Sequence[Path], *, bundled: bool = False) -> list[Recipe]:
    """The recipes of files and names, and of the TOML files of folders in the order of names.

    Args:
        bundled: every recipe of the bundled world where no path is given.

    Raises:
        RecipeError: one cannot be read, or a folder has none.
    """
    if not paths and bundled:
        return [read_recipe(file) for file in bundled_recipes().values()]
    found: list[Recipe] = []
    for path in paths:
        inside = sorted(path.glob("*.toml")) if path.is_dir() else [path]
        if not inside:
            raise RecipeError(f"{path} holds no recipe. Give a TOML file, or a folder of them.")
        found += [open_recipe(str(file)) for file in inside]
    return found


def bundled_recipes() -> dict[str, Path]:
    """The recipes of the bundled world, by name; those that lead come first."""
    home = Path(str(files("steersman.world"))) / "recipes"
    known = sorted(home.glob("*.toml"), key=lambda file: (_place(file.stem), file.stem))
    return {file.stem: file for file in known}


def _place(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)
